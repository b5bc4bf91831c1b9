"""What a run reserves at one time, read from the same config that it runs with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.bundles import Bundle, bundles
from rlhf.ppo.config import PPOConfig, SamplerConfig
from rlhf.roles import Resources
from rlhf.stage import StageConfig
from rlhf.training.config import TrainingConfig


@dataclass(frozen=True)
class Need:
    """What one stage reserves while it runs; the stages of a pipeline run one after the other."""

    stage: str
    roles: Mapping[str, Resources]

    @property
    def bundles(self) -> dict[str, list[Bundle]]:
        """Role → what each of its ranks reserves on one node, those that share it included."""
        return bundles(self.roles)

    def total(self, kind: str) -> float:
        """Of "CPU" or "GPU"."""
        return sum(bundle.amount(kind) for role in self.bundles.values() for bundle in role)


def needs(stages: Sequence[tuple[str, StageConfig]]) -> list[Need]:
    """The needs of every stage that uses Ray's resources, in order."""
    found = [Need(name, roles) for name, config in stages if (roles := _roles(config))]
    return found


def _roles(config: StageConfig) -> dict[str, Resources]:
    if isinstance(config, PPOConfig):
        return config.roles()
    training, sampler = getattr(config, "training", None), getattr(config, "sampler", None)
    if isinstance(training, TrainingConfig):
        workers = training.workers
        return {"workers": Resources(ranks=workers.count, cpus=workers.cpus, gpus=workers.gpus)}
    return {"rollout": sampler.resources} if isinstance(sampler, SamplerConfig) else {}
