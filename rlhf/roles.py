"""Where a role runs, and what a frozen one is."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rlhf.config import Config
from rlhf.device import Precision
from rlhf.stage import ModelInput

Strategy = Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
RoleName = Literal["policy", "critic", "reference", "reward", "rollout"]


class Resources(Config):
    """Processes of a role and what each reserves of its node."""

    ranks: int = Field(1, ge=1, le=65_536, description="processes of the role")
    cpus: float = Field(1.0, ge=0, le=4_096, description="CPU cores that each process reserves")
    gpus: float = Field(0.0, ge=0, le=4_096, description="GPUs that each process reserves; a fraction shares one")
    threads: int | None = Field(
        None, ge=1, le=4_096, description="torch threads of each; default: its whole cpus, at least 1"
    )
    strategy: Strategy = Field("PACK", description="how the ranks spread over nodes (Ray placement group)")
    share: RoleName | None = Field(None, description="run rank k on the devices of this other role's rank k")

    @property
    def torch_threads(self) -> int:
        return self.threads or max(1, int(self.cpus))


class FrozenConfig(Config):
    """How a frozen model runs."""

    precision: Precision = "float32"
    micro_batch_tokens: int = Field(16384, gt=0, description="padded tokens of one forward pass")
    divided: bool = Field(
        False, description="each rank holds a share of the weights, gathered layer by layer (ZeRO-3); else all of them"
    )
    resources: Resources = Resources()


class ScorerConfig(FrozenConfig):
    """A frozen model that scores rollouts: the reference or a reward model."""

    model: ModelInput = Field(description="directory or hub name")
