"""Whether the devices of a run hold it, and what is wrong when they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rlhf.plan import hosts
from rlhf.plan.demands import Demand
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import GIB, Cluster
from rlhf.plan.places import USABLE, Device, Holding, devices


@dataclass(frozen=True)
class Fit:
    """Every GPU and every process in host memory of a run on a cluster, and the problems found, worst first.

    `offloaded`: bytes of a node's memory, of the fullest, that states of learners on GPUs take.
    """

    cluster: Cluster
    devices: tuple[Device, ...]
    on_hosts: tuple[Holding, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    offloaded: float = 0.0

    @property
    def fits(self) -> bool:
        return not self.problems

    @property
    def overfills_a_node(self) -> bool:
        """Whether states in host memory are more than a node has."""
        return self.offloaded > hosts.room(self.cluster)

    @property
    def fullest(self) -> float:
        """Bytes on the fullest GPU."""
        return max((device.peak for device in self.devices), default=0.0)


def fit(demands: Sequence[Demand], cluster: Cluster) -> Fit:
    """Put a run's roles on a cluster."""
    on_gpus = tuple(devices(demands, cluster.gpu)) if cluster.gpu is not None else ()
    on_hosts = tuple(hosts.processes(demands))
    offloaded = hosts.offloaded_of_a_node(demands, cluster.nodes, cluster.gpus_per_node)
    problems = [*_too_few(demands, on_gpus, cluster), *_too_full(on_gpus, cluster)]
    problems += [text for device in on_gpus for text in _engine_problems(device)]
    problems += _overfull_nodes(demands, offloaded, cluster)
    problems += _too_little_memory(on_hosts, hosts.offloaded(demands), cluster)
    warnings = [text for device in on_gpus for text in _engine_warnings(device)]
    return Fit(cluster, on_gpus, on_hosts, tuple(problems), tuple(warnings), offloaded)


def _too_few(demands: Sequence[Demand], on_gpus: Sequence[Device], cluster: Cluster) -> list[str]:
    wanted = sum(device.count for device in on_gpus)
    if cluster.gpu is None and any(each.resources.gpus for each in demands):
        names = ", ".join(each.role for each in demands if each.resources.gpus)
        return [f"{names} reserve GPUs, and the cluster has none"]
    if wanted > cluster.gpus:
        parts = ", ".join(f"{device.name} {device.count}" for device in on_gpus)
        return [f"the roles ask for {wanted} GPUs ({parts}), and the cluster has {cluster.gpus}"]
    wide = [each for each in demands if each.gpus_of_process > cluster.gpus_per_node and cluster.gpus_per_node]
    return [f"{each.role}: one engine spreads over {each.gpus_of_process} GPUs of one node" for each in wide]


def _too_full(on_gpus: Sequence[Device], cluster: Cluster) -> list[str]:
    """GPUs that hold more than they have, the fullest first."""
    if cluster.gpu is None:
        return []
    usable = cluster.gpu.memory * USABLE
    full = sorted((d for d in on_gpus if d.peak > usable), key=lambda d: -d.peak)
    return [
        f"the GPU of {d.name} needs {d.peak / GIB:.1f} GiB while {_phase(d)}, and has {usable / GIB:.1f} usable"
        for d in full
    ]


def _phase(device: Device) -> str:
    return "it trains" if device.training >= device.sampling else "engines sample"


def _engine_problems(device: Device) -> list[str]:
    """An engine needs room for one sequence at least."""
    found = []
    for each in device.holdings:
        model = each.demand.model
        if isinstance(model, Engine) and model.cached_tokens(each.memory) < model.context:
            found.append(
                f"rollout: an engine's weights and workspace take {(model.weights + model.workspace) / GIB:.1f} GiB of "
                f"the {each.demand.fraction:g} of a GPU that gpu_memory_fraction gives it, which leaves no room for "
                f"the KV cache of one sequence of {model.context} tokens"
            )
    return found


def _engine_warnings(device: Device) -> list[str]:
    found = []
    for each in device.holdings:
        model = each.demand.model
        if isinstance(model, Engine):
            at_once = model.cached_tokens(each.memory) / model.context
            if 1 <= at_once < min(8, model.sequences):
                found.append(f"rollout: the KV cache holds only {at_once:.0f} sequences of {model.context} tokens")
    return found


def _overfull_nodes(demands: Sequence[Demand], offloaded: float, cluster: Cluster) -> list[str]:
    """States that learners on GPUs keep in host memory, where a node has less."""
    room = hosts.room(cluster)
    if offloaded <= room:
        return []
    names = " and ".join(each.role for each in demands if each.offloaded)
    return [
        f"a node needs {offloaded / GIB:.1f} GiB of its own memory for offloaded states of {names}, and has "
        f"{room / GIB:.1f} beside Ray's own processes"
    ]


def _too_little_memory(on_hosts: Sequence[Holding], offloaded: float, cluster: Cluster) -> list[str]:
    """Processes without a GPU go where there is room: all nodes together must have it."""
    total, room = sum(h.memory.peak for h in on_hosts) + offloaded, cluster.nodes * hosts.room(cluster)
    if not on_hosts or total <= room:
        return []
    with_states = " and offloaded states" if offloaded else ""
    return [
        f"the processes without a GPU{with_states} need {total / GIB:.1f} GiB together, and the nodes have "
        f"{room / GIB:.1f} beside Ray's own"
    ]
