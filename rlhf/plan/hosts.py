"""What a run keeps in the memory of its nodes: processes without a GPU, and states that learners on GPUs keep there.

Not counted: the libraries of processes on GPUs, and weights while they are read from storage or written to it.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlhf.plan.demands import Demand
from rlhf.plan.hardware import GIB, Cluster
from rlhf.plan.places import Holding, groups

SLACK_GIB = 1.0  # of a node's memory, for Ray's own processes


def processes(demands: Sequence[Demand]) -> list[Holding]:
    """The processes that run without a GPU, one for each rank."""
    without = [each for each in demands if not each.resources.gpus]
    return [Holding(each, each.on(None)) for each in without for _ in range(each.resources.ranks)]


def offloaded(demands: Sequence[Demand]) -> float:
    """Bytes of host memory that the states of all ranks on GPUs take together."""
    return sum(each.resources.ranks * each.offloaded for each in demands)


def offloaded_of_a_node(demands: Sequence[Demand], nodes: int, gpus_per_node: int) -> float:
    """Bytes of the node's memory where most of such states meet.

    Ray fills one node after the other, so those GPUs may be on one that offload most; of nodes whose GPUs nobody knows
    (`gpus_per_node` 0) an equal share.
    """
    total, met, free = offloaded(demands), 0.0, gpus_per_node
    for group in sorted(groups(demands), key=lambda group: -group.offloaded):
        here = min(free, group.count)
        met, free = met + here * group.offloaded, free - here
    return min(total, max(met, total / nodes))


def room(cluster: Cluster) -> float:
    """Bytes of a node's memory beside Ray's own processes; without end where nobody knows how much it has."""
    return cluster.node_memory - SLACK_GIB * GIB if cluster.node_memory is not None else float("inf")
