"""How many nodes of one size hold a run: the ranks are laid into nodes as Ray's placement groups would be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from rlhf.bundles import Bundle, check_fits, check_strategy
from rlhf.cluster.needs import Need
from rlhf.errors import ConfigError

GPUS_OF_A_NODE = 8  # where a run needs more than one node: the usual machine
CPUS_OF_A_NODE = 32  # of a run without GPUs
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Nodes:
    """The worker nodes of a cluster, all alike."""

    count: int
    gpus: int
    cpus: int

    def resources(self) -> list[dict[str, float]]:
        """What Ray will know of each."""
        return [{"CPU": self.cpus, "GPU": self.gpus}] * self.count


@dataclass
class _Node:
    """A node that is being filled: what each GPU has left, and the cores in use."""

    free: list[float]
    cpus: float = 0.0
    roles: set[str] = field(default_factory=set)

    def place_for(self, bundle: Bundle) -> list[int] | None:
        """The GPUs that a bundle would take; None where they do not suffice. A fraction takes a part of one."""
        if bundle.gpus < 1:
            fitting = [k for k, free in enumerate(self.free) if free + _ROUNDING >= bundle.gpus]
            return [] if not bundle.gpus else [min(fitting, key=lambda k: self.free[k])] if fitting else None
        whole = [k for k, free in enumerate(self.free) if free > 1 - _ROUNDING]
        count = math.ceil(bundle.gpus - _ROUNDING)
        return whole[:count] if len(whole) >= count else None

    def take(self, role: str, bundle: Bundle, gpus: Sequence[int]) -> None:
        for k in gpus:
            self.free[k] -= min(1.0, bundle.gpus)
        self.cpus += bundle.cpus
        self.roles.add(role)


def nodes_for(wanted: Sequence[Need], gpus_per_node: int | None = None, cpus_per_node: int | None = None) -> Nodes:
    """The fewest equal nodes that hold every stage. A core more than the roles reserve is left for Ray itself.

    Raises ConfigError when no number of such nodes would do.
    """
    gpus = _gpus_of_a_node(wanted, gpus_per_node)
    most = math.inf if gpus and cpus_per_node is None else float((cpus_per_node or CPUS_OF_A_NODE) - 1)
    filled = [_fill(need, gpus, most) for need in wanted]
    count = max((len(nodes) for nodes in filled), default=1) or 1
    used = max((node.cpus for nodes in filled for node in nodes), default=0.0)
    found = Nodes(count, gpus, cpus_per_node or math.ceil(used - _ROUNDING) + 1)
    for need in wanted:  # the sentences of the run itself, on these nodes
        check_fits(need.bundles, found.resources())
        for name, role in need.bundles.items():
            check_strategy(name, need.roles[name].strategy, role, found.resources())
    return found


def _gpus_of_a_node(wanted: Sequence[Need], given: int | None) -> int:
    total = max((math.ceil(need.total("GPU") - _ROUNDING) for need in wanted), default=0)
    if given is None:
        return min(total, GPUS_OF_A_NODE)
    if total and not given:
        raise ConfigError(f"--gpus-per-node 0: the config asks for {total} GPUs; give the number that a node has")
    return given if total else 0


def _fill(need: Need, gpus: int, most: float) -> list[_Node]:
    """Nodes with every rank of a stage in one of them, those that need most first."""
    nodes: list[_Node] = []
    order = sorted(need.bundles.items(), key=lambda role: (-role[1][0].gpus, -role[1][0].cpus))
    for name, role in order:
        strategy = need.roles[name].strategy
        groups = [role] if strategy == "STRICT_PACK" else [[bundle] for bundle in role]
        for group in groups:
            _place(need, name, group, nodes, gpus, most)
    return nodes


def _place(need: Need, role: str, group: Sequence[Bundle], nodes: list[_Node], gpus: int, most: float) -> None:
    """Lay the bundles of a group into one node, a new one where none has room."""
    apart = need.roles[role].strategy == "STRICT_SPREAD"
    for node in [*nodes, _Node([1.0] * gpus)]:
        if apart and role in node.roles:
            continue
        trial = _Node(list(node.free), node.cpus, set(node.roles))
        if _all_fit(role, group, trial, most):
            node.free, node.cpus, node.roles = trial.free, trial.cpus, trial.roles
            if not any(node is other for other in nodes):
                nodes.append(node)
            return
    whole = Bundle(sum(bundle.cpus for bundle in group), sum(bundle.gpus for bundle in group))
    room = f"{gpus} GPUs" if most == math.inf else f"{most:g} CPUs and {gpus} GPUs"
    raise ConfigError(
        f"{need.stage}: {role} needs {whole} on one node, and a node has {room} for roles; "
        f"raise --gpus-per-node or --cpus-per-node, or lower the role's resources"
    )


def _all_fit(role: str, group: Sequence[Bundle], node: _Node, most: float) -> bool:
    for bundle in group:
        gpus = node.place_for(bundle)
        if gpus is None or node.cpus + bundle.cpus > most + _ROUNDING:
            return False
        node.take(role, bundle, gpus)
    return True
