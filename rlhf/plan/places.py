"""Which processes meet on one device, and what they hold there together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.plan.demands import Demand
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import Cluster, Gpu
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


def devices(demands: Sequence[Demand], gpu: Gpu) -> list[Device]:
    """The GPUs of a run, equal ones together. Roles of one place that reserve fractions share a GPU; one that
    reserves whole GPUs has them for itself."""
    owners = [each for each in demands if each.resources.share is None]
    found: list[Device] = []
    for owner in owners:
        place = [owner, *(each for each in demands if each.resources.share == owner.role)]
        fractional = [each for each in place if 0 < each.resources.gpus < 1]
        whole = [[each] for each in place if each.resources.gpus >= 1]
        for group in [fractional, *whole]:
            found += [_device(group, gpu)] if group else []
    return found


def _device(group: Sequence[Demand], gpu: Gpu) -> Device:
    first = group[0]
    held = tuple(Holding(each, each.on(gpu)) for each in group)
    total = round(sum(each.resources.gpus for each in group), 4)
    times = max(1, int(1 / total + 1e-6)) if total < 1 else 1
    ranks = max(each.resources.ranks for each in group)
    gpus = ranks * (first.gpus_of_process if total >= 1 else 1)
    return Device(held, -(-gpus // times), min(times, ranks))


def host_processes(demands: Sequence[Demand]) -> list[Holding]:
    """The processes that run without a GPU, one for each rank."""
    without = [each for each in demands if not each.resources.gpus]
    return [Holding(each, each.on(None)) for each in without for _ in range(each.resources.ranks)]


def host_bytes(demands: Sequence[Demand], cluster: Cluster) -> float:
    """Bytes of one node's memory that states of learners on GPUs take there, the fullest node."""
    total = 0.0
    for each in demands:
        if each.resources.gpus:
            per_node = min(each.resources.ranks, max(1, int(cluster.gpus_per_node / max(each.resources.gpus, 1e-9))))
            total += each.on(cluster.gpu).host * per_node
    return total
