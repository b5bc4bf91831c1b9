"""What the planner knows of a run's stages: what their learners keep in host memory, and the model that is served."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf.cluster.packing import Nodes
from rlhf.errors import ConfigError
from rlhf.plan.architecture import Architecture
from rlhf.plan.demands import Demand
from rlhf.plan.hosts import offloaded_of_a_node
from rlhf.plan.plans import demands_of, remember
from rlhf.plan.sizes import sizes_by
from rlhf.ppo.config import PPOConfig
from rlhf.stage import StageConfig
from rlhf.training.config import TrainingConfig


@dataclass(frozen=True)
class Planned:
    """By stage: its roles and what it publishes, or why nobody knows the sizes of its models."""

    demands: Mapping[str, Sequence[Demand]] = field(default_factory=dict)
    models: Mapping[str, Architecture] = field(default_factory=dict)
    unknown: Mapping[str, ConfigError] = field(default_factory=dict)

    @classmethod
    def of(cls, stages: Sequence[tuple[str, StageConfig]], model: str | None) -> Planned:
        """`model`: sizes for every model of the run; else they are looked for as `rlhf plan` does."""
        sizes, demands, models, unknown = sizes_by(model), {}, {}, {}
        for name, config in stages:
            try:
                demands[name] = demands_of(name, config, sizes)
                remember(name, config, sizes)
            except ConfigError as error:
                unknown[name] = error
            made = sizes.made.get(Path(config.output).absolute())
            models |= {name: made} if made is not None else {}
        return cls(demands, models, unknown)

    def model(self, stage: str) -> Architecture:
        """What a stage publishes. Raises ConfigError where nobody knows its sizes."""
        if stage not in self.models:
            raise self.unknown[stage]
        return self.models[stage]

    def offloaded(self, stages: Sequence[tuple[str, StageConfig]], nodes: Nodes) -> float:
        """Bytes that offloaded states take of a node at most; stages run one after the other.

        Raises ConfigError for a stage that offloads states whose sizes nobody knows.
        """
        for name, config in stages:
            if name in self.unknown and offloads(config):
                raise self.unknown[name]
        found = (offloaded_of_a_node(each, nodes.count, nodes.gpus) for each in self.demands.values())
        return max(found, default=0.0)


def offloads(config: StageConfig) -> bool:
    """Whether a stage's learners keep states in host memory that their GPUs would hold."""
    training = getattr(config, "training", None)
    if isinstance(training, TrainingConfig):
        there = training.deepspeed
        return bool(training.workers.gpus) and (there.offload_optimizer or there.offload_parameters)
    if not isinstance(config, PPOConfig):
        return False
    learners = [each for each in (config.policy, config.critic) if each is not None and each.resources.gpus]
    return any(each.zero.offload_optimizer or each.zero.offload_during_rollout for each in learners)
