"""How rollouts and updates follow each other, chosen by `loop.kind`."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from rlhf.config import Config
from rlhf.stage import Input


class LoopConfig(Config):
    """What a run starts."""

    samples: ClassVar[bool] = True  # engines and rewards
    trains: ClassVar[bool] = True  # policy, critic and reference
    gives_up: ClassVar[bool] = True  # a step before its update, where the run is asked to end


class Synchronous(LoopConfig):
    """Sample from the newest weights, train on it, publish: one after the other."""

    kind: Literal["synchronous"] = "synchronous"


class Asynchronous(LoopConfig):
    """Sample for later steps while a step trains."""

    gives_up = False
    kind: Literal["asynchronous"]
    staleness: int = Field(1, ge=1, description="steps of training between the weights that sample and those trained")


class FixedBatch(LoopConfig):
    """For debugging: the prompts of the first step in every step."""

    kind: Literal["fixed_batch"]


class RolloutsOnly(LoopConfig):
    """For debugging: sample and score from the weights on disk, keep the rollouts, train nothing."""

    trains = False
    kind: Literal["rollouts_only"]


class Replay(LoopConfig):
    """For debugging: train on saved rollouts, without engines and rewards."""

    samples = False
    kind: Literal["replay"]
    rollouts: Input = Field(description="directory of step_NNNNNN.parquet that a run with rollout.save, or one of "
                                        "kind rollouts_only, has written")


Loop = Synchronous | Asynchronous | FixedBatch | RolloutsOnly | Replay
