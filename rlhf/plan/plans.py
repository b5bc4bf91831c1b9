"""The plan of one stage on a cluster: whether it fits, how long it takes, what to change first, what would be best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlhf.plan.assumptions import USUAL, Assumptions
from rlhf.plan.demands import Demand, Lengths, demands, lengths
from rlhf.plan.hardware import Cluster
from rlhf.plan.phases import Iteration, Predictor
from rlhf.plan.sizes import Sizes
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.verdict import Fit, fit
from rlhf.ppo.config import PPOConfig

TRAINED = ("pretrain", "sft", "reward")  # stages that are jobs of Ray Train


@dataclass(frozen=True)
class Means:
    """Mean tokens of a prompt and of a response, for times; None: as long as the config allows."""

    prompt: int | None = None
    response: int | None = None

    def within(self, longest: Lengths) -> Lengths:
        """No longer than the config allows."""
        return Lengths(
            min(self.prompt or longest.prompt, longest.prompt), min(self.response or longest.response, longest.response)
        )


LONGEST = Means()


@dataclass(frozen=True)
class StagePlan:
    """What is said about one stage. `iteration` is None where no GPU works, `lengths` where there are no rollouts."""

    stage: str
    demands: tuple[Demand, ...]
    fit: Fit
    iteration: Iteration | None
    lengths: Lengths | None = None


def plan_ppo(
    config: PPOConfig, cluster: Cluster, sizes: Sizes, means: Means = LONGEST, assumed: Assumptions = USUAL
) -> StagePlan:
    """A PPO config on a cluster. Raises ConfigError for a model whose sizes nobody knows."""
    wanted = demands(config, sizes)
    longest = lengths(config, sizes.of(config.policy.model, "policy.model"))
    mean, found = means.within(longest), fit(wanted, cluster)
    iteration = None
    if cluster.gpu is not None and found.devices:
        iteration = Predictor(config, wanted, found.devices, cluster, mean, longest.response, assumed).iteration()
    found = replace(found, warnings=(*found.warnings, *_slow(iteration, config.deadline_s)))
    return StagePlan("ppo", tuple(wanted), found, iteration, mean)


def _slow(iteration: Iteration | None, deadline_s: float) -> list[str]:
    """A phase that is expected to take most of the time after which a role counts as hung."""
    phases = iteration.phases if iteration is not None else ()
    return [
        f"the phase {phase.name} is expected to take {phase.expected:.0f} s, and deadline_s gives a role up after "
        f"{deadline_s:g}; raise it"
        for phase in phases if phase.expected > deadline_s / 2
    ]


def plan_training(stage: TrainStage, cluster: Cluster, assumed: Assumptions = USUAL) -> StagePlan:
    """A training job on a cluster."""
    workers = stage.demand()
    found = fit([workers], cluster)
    iteration = stage.step(cluster, assumed) if found.devices else None
    return StagePlan(stage.kind, (workers,), found, iteration)


def demands_of(name: str, config: Any, sizes: Sizes) -> Sequence[Demand]:
    """What the processes of any stage ask for; nothing of a stage that trains no model. Raises ConfigError for a model
    whose sizes nobody knows."""
    if name == "ppo":
        return demands(config, sizes)
    return [TrainStage.of(name, config, sizes).demand()] if name in TRAINED else []  # type: ignore[arg-type]


def remember(name: str, config: Any, sizes: Sizes) -> None:
    """What later stages of a pipeline will find in the directory that this one publishes."""
    output = Path(config.output).absolute()
    if name == "tokenizer":
        sizes.vocabularies[output] = config.vocab_size
    elif name in TRAINED:
        sizes.made[output] = TrainStage.of(name, config, sizes).model  # type: ignore[arg-type]
    elif name == "ppo":
        sizes.made[output] = sizes.of(config.policy.model, "policy.model")


def plan_stage(name: str, config: Any, cluster: Cluster, sizes: Sizes, means: Means = LONGEST) -> StagePlan | None:
    """Any stage's config; None for a stage that holds no model worth planning."""
    if name == "ppo":
        return plan_ppo(config, cluster, sizes, means)
    if name in TRAINED:
        return plan_training(TrainStage.of(name, config, sizes), cluster)  # type: ignore[arg-type]
    return None
