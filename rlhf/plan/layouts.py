"""Sensible ways to put the roles of a PPO config on a cluster, the fastest of those that fit first.

Three families: everything on every GPU, the engines sleeping while the learners train; GPUs of their own for policy,
critic with the frozen models, and engines; and the frozen models apart, too. Memory and times are planned on sketches,
configs that nobody has validated; what is proposed goes through the config's own validation, so that the platform
refuses none of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.plan.demands import demands
from rlhf.plan.hardware import GIB, Cluster
from rlhf.plan.places import USABLE
from rlhf.plan.plans import LONGEST, Means, StagePlan, plan_ppo
from rlhf.plan.sizes import Sizes
from rlhf.plan.variants import Change, changed, sketched
from rlhf.plan.verdict import fit
from rlhf.ppo.config import PPOConfig

PARTS = 8  # a cluster is shared out in so many parts, or by single GPUs where it has fewer
LEAN_TOKENS = 4096
BESIDE_ENGINES = 5 * GIB  # on their GPUs: a CUDA context, NCCL, and the buckets in which new weights arrive


@dataclass(frozen=True)
class Layout:
    """A way to place the roles, and its plan."""

    change: Change
    plan: StagePlan

    @property
    def seconds(self) -> float:
        """Of one step, as expected."""
        return self.plan.iteration.total("expected") if self.plan.iteration else float("inf")


def layouts(config: PPOConfig, cluster: Cluster, sizes: Sizes, means: Means = LONGEST) -> Iterator[Layout]:
    """Those that fit, the fastest first; of two that are equally fast the one with more room."""
    if not _any_holds(config, cluster, sizes):
        return
    found = [_first(config, each, cluster, sizes, means) for each in candidates(config, cluster)]
    there = sorted((each for each in found if each), key=lambda each: (round(each.seconds, 1), each.plan.fit.fullest))
    yield from (each for each in there if changed(config, each.change) is not None)


def _any_holds(config: PPOConfig, cluster: Cluster, sizes: Sizes) -> bool:
    """Whether the GPUs hold a layout in the form that takes least: without this a search that finds nothing looks at
    every form of every layout."""
    forms = [*LEAST, *(RESIDENT if cluster.node_memory is not None else [])]
    least = (change for each in candidates(config, cluster, forms) for change in each)
    return any(fit(demands(sketched(config, change), sizes), cluster).fits for change in least)


def _first(
    config: PPOConfig, alternatives: Sequence[Change], cluster: Cluster, sizes: Sizes, means: Means
) -> Layout | None:
    """The first of some changes that fits, as a sketch."""
    for change in alternatives:
        there = sketched(config, change)
        if fit(demands(there, sizes), cluster).fits:
            return Layout(change, plan_ppo(there, cluster, sizes, means))
    return None


@dataclass(frozen=True)
class Training:
    """How the learners of a layout save memory."""

    stage: int
    offload: bool
    lean: bool  # activations are recomputed, for fewer tokens at a time

    def learner(self, config: PPOConfig, name: str) -> dict[str, Any]:
        """The overlay of a learner's section."""
        zero = {"stage": self.stage, "offload_optimizer": self.offload, "offload_during_rollout": False}
        tokens = min(LEAN_TOKENS, getattr(config, name).micro_batch_tokens)
        lean = {"gradient_checkpointing": True, "micro_batch_tokens": tokens} if self.lean else {}
        return {"zero": zero, **lean}

    def __str__(self) -> str:
        host = ", optimizer on the host" if self.offload else ""
        return f"ZeRO-{self.stage}{host}{f', recomputing, {LEAN_TOKENS} tokens at a time' if self.lean else ''}"


Forms = Sequence[Training]  # of one layout, the fastest first
ALL: Sequence[Forms] = [
    [Training(stage, offload, lean) for lean in (False, True)] for stage, offload in ((2, False), (3, False), (3, True))
]
# What takes least memory: ZeRO-2 of adapters, whose states are small beside what ZeRO-3 gathers; else the other.
LEAST: Sequence[Forms] = [[Training(2, False, True)], [Training(3, True, True)]]
RESIDENT: Sequence[Forms] = [[Training(3, False, True)]]  # and where a node may have no room for an optimizer


def candidates(config: PPOConfig, cluster: Cluster, families: Sequence[Forms] = ALL) -> Iterator[list[Change]]:
    """Every layout that is looked at, each in several forms, the best first."""
    if not cluster.gpus or not (config.loop.samples and config.loop.trains):
        return
    for forms in families:
        shares = (0.7, 0.5, 0.35, 0.25)
        yield [_shared(config, cluster.gpus, form, share) for form in forms for share in shares]
        for split in _splits(cluster, config):
            yield [_apart(config, split, form, _share_of_engines(cluster)) for form in forms]


def _share_of_engines(cluster: Cluster) -> float:
    """Of GPUs of their own, in twentieths."""
    assert cluster.gpu is not None
    return min(0.85, int(20 * (USABLE - BESIDE_ENGINES / cluster.gpu.memory)) / 20)


@dataclass(frozen=True)
class Split:
    """GPUs of the policy, of a second group, of frozen models apart from it (0: with it), and of the engines, `wide`
    GPUs each. `whole`: what is apart is the reference alone."""

    policy: int
    second: int
    frozen: int
    engines: int
    wide: int
    whole: bool

    def places(self, config: PPOConfig) -> dict[str, tuple[int, float, str | None]]:
        """Ranks, GPUs of each, and whom each role but the engines shares with."""
        found = self._with_a_reward_model(config.critic is not None)
        if config.reward.learned():
            return found
        alone = {} if config.critic is not None else {"reference": (self.second, 1.0, None)}
        return {role: each for role, each in {**found, **alone}.items() if role != "reward"}

    def _with_a_reward_model(self, has_critic: bool) -> dict[str, tuple[int, float, str | None]]:
        policy = {"policy": (self.policy, 1.0, None)}
        if not has_critic and not self.frozen:
            return {**policy, "reference": (self.second, 0.5, None), "reward": (self.second, 0.5, "reference")}
        if not has_critic:
            return {**policy, "reference": (self.second, 1.0, None), "reward": (self.frozen, 1.0, None)}
        if not self.frozen:
            shares = {"reference": (self.second, 0.2, "critic"), "reward": (self.second, 0.2, "critic")}
            return {**policy, "critic": (self.second, 0.6, None), **shares}
        if self.whole:
            reference = {"reference": (self.frozen, 1.0, None), "reward": (self.second, 0.3, "critic")}
            return {**policy, "critic": (self.second, 0.7, None), **reference}
        frozen = {"reference": (self.frozen, 0.5, None), "reward": (self.frozen, 0.5, "reference")}
        return {**policy, "critic": (self.second, 1.0, None), **frozen}


def _ways_of_frozen(config: PPOConfig) -> Iterator[tuple[int, bool]]:
    """Parts of a cluster for frozen models of their own, and whether the reference has them alone."""
    yield 0, False
    if config.reward.learned():
        yield from ((1, False), (2, False))
    if config.critic is not None:
        yield from ((1, True), (2, True))


def _splits(cluster: Cluster, config: PPOConfig) -> Iterator[Split]:
    """Every way of sharing the cluster's parts out."""
    unit = max(1, cluster.gpus // PARTS)
    parts = cluster.gpus // unit
    ways = list(_ways_of_frozen(config))
    for engines in range(1, parts - 1):
        for second in range(1, parts - engines):
            for frozen, whole in ways:
                first = parts - engines - second - frozen
                for wide in (1, 2, 4, 8):
                    if first >= 1 and engines * unit % wide == 0 and wide <= cluster.gpus_per_node:
                        yield Split(first * unit, second * unit, frozen * unit, engines * unit, wide, whole)


def _shared(config: PPOConfig, gpus: int, training: Training, fraction: float) -> Change:
    place = {"policy": (gpus, 0.3, None), "critic": (gpus, 0.25, "policy"), "reference": (gpus, 0.1, "policy"),
             "reward": (gpus, 0.1, "policy")}
    overlay = _roles(config, place, training)
    overlay["rollout"] = {
        "sleep": True, "tensor_parallel": 1, "gpu_memory_fraction": fraction,
        "weight_sync": _sync(config, "cuda_ipc"), **_resources(gpus, 0.2, "policy"),
    }
    return Change(f"everything on every GPU, {training}, engines take {fraction:g}", overlay)


def _apart(config: PPOConfig, split: Split, training: Training, fraction: float) -> Change:
    places = split.places(config)
    overlay = _roles(config, places, training)
    overlay["rollout"] = {
        "sleep": False, "tensor_parallel": split.wide, "gpu_memory_fraction": fraction,
        "weight_sync": _sync(config, "nccl"), **_resources(split.engines // split.wide, float(split.wide), None),
    }
    owners = [name for name, (_, _, share) in places.items() if share is None]
    words = [
        f"{' + '.join([owner, *(name for name, (_, _, share) in places.items() if share == owner)])} {places[owner][0]}"
        for owner in owners
    ]
    engines = f"engines {split.engines}" + (f" ({split.wide} GPUs each)" if split.wide > 1 else "")
    share = f", engines take {fraction:g}" if fraction != config.rollout.gpu_memory_fraction else ""
    return Change(f"{', '.join([*words, engines])}; {training}{share}", overlay)


def _roles(config: PPOConfig, place: dict[str, tuple[int, float, str | None]], training: Training) -> dict[str, Any]:
    """Overlays of learners and frozen models, each in its place."""
    overlay: dict[str, Any] = {}
    for name in ("policy", "critic"):
        if name in place and getattr(config, name) is not None:
            overlay[name] = {**training.learner(config, name), **_resources(*place[name])}
    overlay["reference"] = _resources(*place["reference"])
    return {**overlay, **({"reward": _rewards(config, *place["reward"])} if "reward" in place else {})}


def _rewards(config: PPOConfig, ranks: int, gpus: float, share: str | None) -> dict[str, Any]:
    """The reward model, and further ones beside it; parts that read text have no devices."""
    learned = config.reward.learned()
    each = round(gpus / max(1, len(learned)), 3)
    parts = {name: _resources(ranks, each, share) for name in learned if name in config.reward.parts}
    return {**_resources(ranks, each, share), **({"parts": parts} if parts else {})}


def _sync(config: PPOConfig, kind: str) -> dict[str, Any]:
    """A section whose kind changes is replaced whole: the rest is said again."""
    return {"kind": kind, "max_gap": config.rollout.weight_sync.max_gap}


def _resources(ranks: int, gpus: float, share: str | None) -> dict[str, Any]:
    return {"resources": {"ranks": ranks, "gpus": gpus, "share": share}}
