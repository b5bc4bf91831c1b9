"""What the PPO loop sees of the roles: Protocols without Ray. Calls start work and return handles.

A handle stands for a result that may lie in another process. `gather` waits for handles and raises what
went wrong; only small results (metrics) are ever fetched by the loop.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from rlhf.batch import PromptBatch
from rlhf.metrics import Metrics
from rlhf.sound import SoundDirectory

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


@dataclass(frozen=True)
class Position:
    """Where a run stands: the step at hand, counted from 1, and its phase. `count` grows with every change."""

    step: int
    phase: str
    count: int = 0


class Handle(Protocol[T_co]):
    """Work under way."""

    def get(self) -> T_co:
        """Wait for it, and return its result or raise its error."""


def gather(*handles: Handle[T]) -> list[T]:
    """Wait for all, in whatever order they end; results in the order of the arguments."""
    return [handle.get() for handle in handles]


class Nothing:
    """Work that is done already, and had nothing to say."""

    def get(self) -> Metrics:
        return {}


class Tensors(Handle[None], Protocol):
    """Per-token tensors of a rollout that stay where they were made; `get` only waits."""


class RolloutHandle(Handle[Metrics], Protocol):
    """A rollout that stays where it was sampled; `get` waits and returns what the driver logs of it."""


class ExperienceHandle(Handle[Metrics], Protocol):
    """An experience that stays where it was made; `get` waits and returns its metrics."""


@dataclass(frozen=True)
class ScoredRollout:
    """A rollout and its scores, which may still be under way."""

    rollout: RolloutHandle
    scores: Tensors


@dataclass(frozen=True)
class Collected(ScoredRollout):
    """What a step trains on.

    `prompts_used` counts the prompts of the whole run that have been asked by now; `metrics` is what the sampling says.
    `greedy` holds the most likely response to each prompt, in the order of the groups, where the method asks for it.
    """

    prompts_used: int
    metrics: Metrics
    greedy: ScoredRollout | None = None


@dataclass(frozen=True)
class Kept(ScoredRollout):
    """The rows of rollouts that a filter has kept so far; `groups` counts their prompts."""

    groups: int


class GroupFilter(Protocol):
    """Keeps the groups of a rollout that say which response is better."""

    def keep(self, step: int, kept: Kept | None, sampled: ScoredRollout, limit: int) -> Kept:
        """What was kept before and the informative groups of `sampled`, `limit` at most. Waits for the scores."""


class Collector(Protocol):
    """Samples what a step trains on, and lets it be scored."""

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        """What step `step` trains on; `version` is that of the newest published weights."""

    def save(self, directory: Path) -> Handle[None]:
        """Write what was sampled and not yet trained on below `directory`, where there is any."""

    def load(self, directory: Path) -> None:
        """Take what `save` wrote."""


class RolloutStore(Protocol):
    """Keeps scored rollouts as files."""

    def write(self, path: Path, step: int, collected: Collected) -> Handle[Metrics]:
        """Write the rollout of a step, token by token, with its scores; the metrics say what is in it."""

    def read(self, path: Path) -> Collected:
        """The rollout that `write` wrote. Raises DataError when the file is none."""


class Sampler(Protocol):
    """Generates rollouts from the newest published policy."""

    def resident(self) -> AbstractContextManager[None]:
        """Holds the device memory for generation inside the block; a no-op on devices of its own."""

    def generate(self, batch: PromptBatch, version: int) -> RolloutHandle:
        """One response per row from the weights of `version`; StalePolicyError when others are held."""


class RewardScorer(Protocol):
    """Gives each response a score."""

    def score(self, rollout: RolloutHandle) -> Tensors: ...


class ReferenceScorer(Protocol):
    """Log-probabilities under a frozen policy."""

    def logprobs(self, rollout: RolloutHandle) -> Tensors: ...


class Trained(Protocol):
    """What policy and critic have in common."""

    def update(self, experience: ExperienceHandle, step: int) -> Handle[Metrics]: ...

    def save(self, directory: Path) -> Handle[None]:
        """Write what `load` needs to go on exactly from here."""

    def load(self, directory: SoundDirectory) -> Handle[None]: ...


class PolicyLearner(Trained, Protocol):
    """Trains the policy."""

    def logprobs(self, rollout: RolloutHandle) -> Tensors: ...

    def export(self, directory: Path) -> Handle[None]:
        """Write the policy as a transformers directory."""


class CriticLearner(Trained, Protocol):
    """Trains the value function. Where the method has none, one that knows no values plays it."""

    def values(self, rollout: RolloutHandle) -> Tensors: ...


class ExperienceMaker(Protocol):
    """Turns a scored rollout into an experience."""

    def build(
        self, step: int, kl_coef: float, collected: Collected, logprobs: Tensors, ref_logprobs: Tensors,
        values: Tensors,
    ) -> ExperienceHandle: ...

    def save_transcripts(self, step: int, experience: ExperienceHandle) -> Handle[None]: ...


class WeightSync(Protocol):
    """Carries the policy's weights to every engine of the sampler."""

    def publish(self, version: int) -> Handle[None]: ...
