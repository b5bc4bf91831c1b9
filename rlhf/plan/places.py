"""Which processes meet on one device, and what they hold there together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.plan.demands import Demand
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import Gpu
from rlhf.plan.memory import Memory

USABLE = 0.95  # of a GPU: the rest is left to the allocator's fragments


@dataclass(frozen=True)
class Holding:
    """A role's process on a device."""

    demand: Demand
    memory: Memory

    @property
    def sleeps(self) -> bool:
        return isinstance(self.demand.model, Engine) and self.demand.model.sleeps


@dataclass(frozen=True)
class Device:
    """Processes that share one GPU, and on how many GPUs the same holds; `times`: sets of them on each."""

    holdings: tuple[Holding, ...]
    count: int
    times: int = 1

    @property
    def name(self) -> str:
        return " + ".join(each.demand.role for each in self.holdings)

    @property
    def training(self) -> float:
        """While the learners train: engines that sleep hold their runtime alone."""
        return self.times * sum(h.memory.resting if h.sleeps else h.memory.peak for h in self.holdings)

    @property
    def sampling(self) -> float:
        """While engines sample: the others rest."""
        return self.times * sum(
            h.memory.peak if isinstance(h.demand.model, Engine) else h.memory.resting for h in self.holdings
        )

    @property
    def peak(self) -> float:
        return max(self.training, self.sampling)

    @property
    def certain(self) -> float:
        """Model states that are there at once whatever else is estimated."""
        return self.times * sum(0.0 if h.sleeps else h.memory.certain for h in self.holdings)


@dataclass(frozen=True)
class Group:
    """Roles that share GPUs, `count` of them; `times`: sets of their processes on each."""

    demands: tuple[Demand, ...]
    count: int
    times: int

    @property
    def offloaded(self) -> float:
        """Bytes of its node's memory that states of the learners on one GPU take."""
        return self.times * sum(each.offloaded for each in self.demands)


def groups(demands: Sequence[Demand]) -> list[Group]:
    """The GPUs of a run, equal ones together. Roles of one place that reserve fractions share a GPU; one that
    reserves whole GPUs has them for itself."""
    owners = [each for each in demands if each.resources.share is None]
    found: list[Group] = []
    for owner in owners:
        place = [owner, *(each for each in demands if each.resources.share == owner.role)]
        fractional = [each for each in place if 0 < each.resources.gpus < 1]
        whole = [[each] for each in place if each.resources.gpus >= 1]
        found += [_group(each) for each in [fractional, *whole] if each]
    return found


def _group(demands: Sequence[Demand]) -> Group:
    total = round(sum(each.resources.gpus for each in demands), 4)
    times = max(1, int(1 / total + 1e-6)) if total < 1 else 1
    ranks = max(each.resources.ranks for each in demands)
    gpus = ranks * (demands[0].gpus_of_process if total >= 1 else 1)
    return Group(tuple(demands), -(-gpus // times), min(times, ranks))


def devices(demands: Sequence[Demand], gpu: Gpu) -> list[Device]:
    """The same with what is held on GPUs of this kind."""
    return [
        Device(tuple(Holding(each, each.on(gpu)) for each in group.demands), group.count, group.times)
        for group in groups(demands)
    ]
