"""The first thing to change when a PPO config does not fit: what costs least and is enough."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from rlhf.plan import hosts
from rlhf.plan.demands import Demand, demands
from rlhf.plan.frozen import Frozen
from rlhf.plan.hardware import GIB, Cluster
from rlhf.plan.layouts import layouts
from rlhf.plan.memory import ON_GPU
from rlhf.plan.places import USABLE
from rlhf.plan.plans import plan_ppo
from rlhf.plan.sizes import Sizes
from rlhf.plan.variants import Change, bfloat16, changed, divided, in_words, onto_the_gpu, resident_savings, savings
from rlhf.plan.verdict import Fit
from rlhf.ppo.config import PPOConfig

MAX_GROWTH = 16  # how many times the nodes a larger cluster is looked for
WITH_GPUS = "the cluster: name one with GPUs, --cluster 1x8xH100-80"
MORE_MEMORY = "smaller models, or nodes with more memory"


def remedy(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str:
    """One change that is enough; else changes that are enough together; else another layout; else a larger cluster."""
    if not cluster.gpus and any(each.gpus for each in config.roles().values()):
        return WITH_GPUS
    for answer in (_undivided, _resident, _saved, _layout, _more_memory):
        found = answer(config, cluster, sizes)
        if found is not None:
            return found
    return _larger(config, cluster, sizes) if cluster.gpus else MORE_MEMORY


def _undivided(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str | None:
    """A frozen model that no GPU of this kind holds in bfloat16, divided over its ranks as it may be: no layout and no
    number of nodes helps."""
    for each in _frozen(config, cluster, sizes):
        least = _least(each, each.resources.ranks)
        if cluster.gpu is not None and least > cluster.gpu.memory * USABLE:
            return (
                f"the GPUs, or the model of {each.role}, which takes {least / GIB:.0f} GiB of every GPU that it is on; "
                f"or more ranks for it, and divided: true"
            )
    return None


def _frozen(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> Iterator[Demand]:
    """The reference and the reward models, where they are on GPUs."""
    wanted = demands(config, sizes) if cluster.gpu is not None else []
    return (each for each in wanted if each.resources.gpus and isinstance(each.model, Frozen))


def _least(frozen: Demand, ranks: int) -> float:
    """Bytes of a frozen model on each of the GPUs that it is divided over, in bfloat16, at one token a pass."""
    assert isinstance(frozen.model, Frozen)
    return replace(frozen.model, width=2, tokens=1, ranks=ranks).memory(ON_GPU).peak


def _fits(config: PPOConfig | None, cluster: Cluster, sizes: Sizes) -> bool:
    return config is not None and plan_ppo(config, cluster, sizes).fit.fits


def _resident(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str | None:
    """States back on the GPUs, where nodes have no room for them: of one learner, of all, of all with savings."""
    back = list(onto_the_gpu(config))
    if not back or not plan_ppo(config, cluster, sizes).fit.overfills_a_node:
        return None
    for changes in [*([each] for each in back), back]:
        if _fits(changed(config, *changes), cluster, sizes):
            return in_words(changes)
    there = changed(config, *back)
    saved = _enough(there, list(resident_savings(there)), cluster, sizes) if there is not None else None
    return in_words([*back, *saved]) if saved is not None else None


def _more_memory(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str | None:
    """How much memory nodes need, where nothing else is wrong."""
    wanted = plan_ppo(config, replace(cluster, node_memory=None), sizes).fit
    return more_memory(wanted) if wanted.fits and wanted.offloaded else None


def more_memory(wanted: Fit) -> str:
    """Nodes that hold what is offloaded, and processes without a GPU, beside Ray's own."""
    each = wanted.offloaded + sum(held.memory.peak for held in wanted.on_hosts) / wanted.cluster.nodes
    return f"the nodes: {math.ceil(each / GIB + hosts.SLACK_GIB)} GiB of memory of their own would do"


def _saved(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str | None:
    """One saving, or several together."""
    found = _enough(config, list(savings(config)), cluster, sizes)
    return in_words(found) if found is not None else None


def _enough(config: PPOConfig, saved: Sequence[Change], cluster: Cluster, sizes: Sizes) -> Sequence[Change] | None:
    """The first change that is enough alone; else changes one after the other until it fits, without those that turn
    out to be needless."""
    for change in saved:
        if _fits(changed(config, change), cluster, sizes):
            return [change]
    taken: list[Change] = []
    for change in saved:
        if changed(config, *taken, change) is None:
            continue
        taken.append(change)
        if _fits(changed(config, *taken), cluster, sizes):
            return _without_needless(config, taken, cluster, sizes)
    return None


def _without_needless(
    config: PPOConfig, taken: Sequence[Change], cluster: Cluster, sizes: Sizes
) -> Sequence[Change]:
    needed = list(taken)
    for each in taken:
        rest = [other for other in needed if other is not each]
        if _fits(changed(config, *rest), cluster, sizes):
            needed = rest
    return needed


def _layout(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str | None:
    """The fastest layout that fits; failing that the fastest with the savings that no layout does without."""
    needed = list(_needed(config, cluster, sizes))
    for changes in [[], needed] if needed else [[]]:
        there = changed(config, *changes)
        best = next(layouts(there, cluster, sizes), None) if there is not None else None
        if best is not None:
            return in_words([*changes, Change(f"the layout: {best.change.words}", {})])
    return None


def _needed(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> Iterator[Change]:
    """What a layout is tried with when none fits as it is: bfloat16, and division of each frozen model that a GPU
    does not hold whole."""
    yield from bfloat16(config)
    for each in _frozen(config, cluster, sizes):
        if cluster.gpu is not None and _least(each, ranks=1) > cluster.gpu.memory * USABLE:
            yield from divided(config, each.role)


def _larger(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> str:
    """The smallest number of nodes, by doubling, that hold the config as it is, or in some layout."""
    larger = cluster
    while larger.nodes < MAX_GROWTH * cluster.nodes:
        larger = replace(larger, nodes=2 * larger.nodes)
        if _fits(config, larger, sizes):
            return f"the cluster: {larger} would do, with this config as it is"
        found = _layout(config, larger, sizes)
        if found is not None:
            return f"the cluster: {larger} would do, with {found}"
    return f"the models, or the kind of GPU: no layout that was tried fits {larger} either"

