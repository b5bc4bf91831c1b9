"""What the roles of a run reserve, rank by rank, and whether nodes have as much. No Ray: a plan is made without it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rlhf.errors import ResourceError
from rlhf.roles import Resources

_ROUNDING = 1e-6
_LOWER = "lower its resources, or add a larger node"


@dataclass(frozen=True)
class Bundle:
    """What one rank's place reserves, its sharers included."""

    cpus: float
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus:g} CPUs and {self.gpus:g} GPUs" if self.gpus else f"{self.cpus:g} CPUs"

    def amount(self, kind: str) -> float:
        """Of "CPU" or "GPU"."""
        return self.cpus if kind == "CPU" else self.gpus

    def fits(self, node: Mapping[str, float]) -> bool:
        """Whether a node, if idle, has as much."""
        return all(self.amount(kind) <= node.get(kind, 0.0) + _ROUNDING for kind in ("CPU", "GPU"))

    def request(self) -> dict[str, float]:
        request = {"CPU": self.cpus} if self.cpus else {}
        return {**request, "GPU": self.gpus} if self.gpus else request or {"CPU": 0.001}


def bundles(roles: Mapping[str, Resources]) -> dict[str, list[Bundle]]:
    """Bundles of every role that owns devices; a sharer's needs are added to its owner's first ranks."""
    owned = {}
    for name, resources in roles.items():
        if resources.share is not None:
            continue
        sharers = [other for other in roles.values() if other.share == name]
        owned[name] = [
            Bundle(
                round(resources.cpus + sum(s.cpus for s in sharers if rank < s.ranks), 4),
                round(resources.gpus + sum(s.gpus for s in sharers if rank < s.ranks), 4),
            )
            for rank in range(resources.ranks)
        ]
    return owned


def check_fits(wanted: Mapping[str, Sequence[Bundle]], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise ResourceError when the cluster, even if idle, cannot hold the bundles. Ray itself would wait for ever."""
    for kind in ("CPU", "GPU"):
        total = sum(bundle.amount(kind) for role in wanted.values() for bundle in role)
        has = sum(node.get(kind, 0.0) for node in nodes)
        if total > has + _ROUNDING:
            parts = ", ".join(f"{name} {sum(b.amount(kind) for b in role):g}" for name, role in wanted.items())
            raise ResourceError(
                f"the run asks for {total:g} {kind}s ({parts}) and the cluster has {has:g}; "
                f"lower resources.{kind.lower()}s or ranks of a role, let roles share devices, or add nodes"
            )
    for name, role in wanted.items():
        for bundle in role:
            if not any(bundle.fits(node) for node in nodes):
                raise ResourceError(f"{name}: one rank needs {bundle} on one node, and no node has as much; {_LOWER}")


def check_strategy(name: str, strategy: str, role: Sequence[Bundle], nodes: Sequence[Mapping[str, float]]) -> None:
    """The same for the two strategies that Ray keeps to at any price."""
    whole = Bundle(sum(b.cpus for b in role), sum(b.gpus for b in role))
    if strategy == "STRICT_PACK" and not any(whole.fits(node) for node in nodes):
        raise ResourceError(f"{name}: STRICT_PACK puts {whole} on one node, and no node has as much; {_LOWER}")
    if strategy == "STRICT_SPREAD" and sum(role[0].fits(node) for node in nodes) < len(role):
        raise ResourceError(
            f"{name}: STRICT_SPREAD needs {len(role)} nodes with {role[0]} each, and the cluster has "
            f"{sum(role[0].fits(node) for node in nodes)}; use SPREAD, or lower ranks"
        )
