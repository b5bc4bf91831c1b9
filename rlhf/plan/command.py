"""`rlhf plan`: reads configs, plans every stage that holds a model, and says what it found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rlhf.errors import ConfigError
from rlhf.plan.hardware import Cluster, parse_cluster
from rlhf.plan.layouts import Layout, layouts
from rlhf.plan.machine import this_machine
from rlhf.plan.plans import Means, StagePlan, plan_stage, remember
from rlhf.plan.question import question
from rlhf.plan.remedies import remedy
from rlhf.plan.show import as_json, text
from rlhf.plan.sizes import Sizes, sizes_by
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.training_layouts import training_layouts
from rlhf.plan.training_remedies import training_remedy
from rlhf.ppo.config import PPOConfig

SHOWN = 4  # layouts
NOTICEABLE = 0.98  # of the time that a step takes


@dataclass(frozen=True)
class Planned:
    """The plan of a stage with what to change, a layout that is faster than its own, and those that would fit; None
    where nobody asked for them."""

    plan: StagePlan
    remedy: str | None
    faster: Layout | None
    best: tuple[Layout, ...] | None


def plan_all(
    stages: Sequence[tuple[str, Any]], cluster: Cluster, sizes: Sizes, means: Means, with_layouts: bool
) -> list[Planned]:
    """Plans of (stage, config) in their order; what a stage makes is known to those after it."""
    found = []
    for name, config in stages:
        planned = plan_stage(name, config, cluster, sizes, means)
        remember(name, config, sizes)
        if planned is not None:
            found.append(_complete(planned, config, sizes, means, with_layouts))
    if not found:
        raise ConfigError("nothing to plan: no stage of this config holds a model (ppo, pretrain, sft, reward)")
    return found


def _complete(planned: StagePlan, config: Any, sizes: Sizes, means: Means, with_layouts: bool) -> Planned:
    cluster = planned.fit.cluster
    if not isinstance(config, PPOConfig):
        stage = TrainStage.of(planned.stage, config, sizes)  # type: ignore[arg-type]
        change = None if planned.fit.fits else training_remedy(stage, cluster)
        found = training_layouts(stage, cluster)
    else:
        change = None if planned.fit.fits else remedy(config, cluster, sizes)
        found = layouts(config, cluster, sizes, means)
    best = tuple(islice(found, SHOWN))
    return Planned(planned, change, _faster(planned, best), best if with_layouts else None)


def _faster(planned: StagePlan, best: Sequence[Layout]) -> Layout | None:
    """The fastest layout, where the stage's own does not fit or takes noticeably longer."""
    if not best or planned.iteration is None:
        return None
    own = planned.iteration.total("expected") if planned.fit.fits else float("inf")
    return best[0] if best[0].seconds < NOTICEABLE * own else None


@dataclass(frozen=True)
class Options:
    """What the command line says beside the config."""

    cluster: str | None = None
    model: str | None = None
    method: str | None = None
    prompt_tokens: int | None = None
    response_tokens: int | None = None
    layouts: bool = False
    as_json: bool = False

    def of_a_config(self) -> list[str]:
        """Those given that say something of a config's plan."""
        given = {"--prompt-tokens": self.prompt_tokens, "--response-tokens": self.response_tokens,
                 "--layouts": self.layouts}
        return [name for name, value in given.items() if value]

    def of_a_model(self) -> list[str]:
        """Those given that say something of a model without a config."""
        return ["--method"] if self.method is not None else []


def answer(options: Options, stages: Callable[[], Sequence[tuple[str, Any]]]) -> str:
    """What the command prints; `stages` reads the configs. Raises ConfigError for what cannot be planned."""
    sizes, named = sizes_by(options.model), stages()
    if not named:
        if sizes.override is None:
            raise ConfigError("rlhf plan: give a config (….yaml), or a model: --model Llama-2-7B --method full")
        _refuse("says something of a config (….yaml), and none is given", options.of_a_config())
        cluster = parse_cluster(options.cluster) if options.cluster is not None else None
        return question(sizes.override, options.method or "full", cluster, options.as_json)
    _refuse("goes with --model alone: a config says itself what is trained", options.of_a_model())
    means = Means(options.prompt_tokens, options.response_tokens)
    planned = plan_all(named, cluster_of(options.cluster), sizes, means, options.layouts)
    if options.as_json:
        return json.dumps([as_json(each.plan, each.remedy, each.faster, each.best) for each in planned], indent=2)
    return "\n".join(_lines(planned))


def _refuse(why: str, given: Sequence[str]) -> None:
    """Raises ConfigError for the first option that would change nothing."""
    if given:
        raise ConfigError(f"{given[0]}: {why}; leave it out")


def cluster_of(text: str | None) -> Cluster:
    """`--cluster`, else this machine."""
    return parse_cluster(text) if text is not None else this_machine()


def _lines(planned: Sequence[Planned]) -> Iterator[str]:
    """Everything as text, a blank line between stages."""
    for position, each in enumerate(planned):
        yield from ([""] if position else [])
        yield from text(each.plan, each.remedy, each.faster, each.best)
