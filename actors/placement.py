"""Where each role runs: one placement group per role that has devices of its own; other roles may share it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from rlhf.bundles import Bundle, bundles, check_fits, check_strategy
from rlhf.errors import ResourceError
from rlhf.roles import Resources

READY_TIMEOUT_S = 120.0


def require_room(roles: Mapping[str, Resources], nodes: Sequence[Mapping[str, Any]] | None = None) -> None:
    """Raises ResourceError when these nodes, by default those that Ray holds alive, cannot hold the roles, even if
    idle."""
    listed = [node for node in ray.nodes() if node["Alive"]] if nodes is None else nodes
    nodes = [node["Resources"] for node in listed]
    wanted = bundles(roles)
    check_fits(wanted, nodes)
    for name, role in wanted.items():
        check_strategy(name, roles[name].strategy, role, nodes)


class Placement:
    """The placement groups of a run."""

    def __init__(self, roles: dict[str, Resources]) -> None:
        self.roles = roles
        require_room(roles)
        wanted = bundles(roles)
        self.groups: dict[str, PlacementGroup] = {
            name: placement_group([b.request() for b in role], strategy=self.roles[name].strategy, name=name)
            for name, role in wanted.items()
        }
        self._wait(wanted)

    def options(self, role: str, rank: int) -> dict[str, Any]:
        """Ray actor options that put a rank of a role into its place."""
        resources = self.roles[role]
        group = self.groups[resources.share or role]
        return {
            "num_cpus": resources.cpus,
            "num_gpus": resources.gpus,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        }

    def remove(self) -> None:
        for group in self.groups.values():
            remove_placement_group(group)

    def _wait(self, wanted: dict[str, list[Bundle]]) -> None:
        try:
            ray.get([group.ready() for group in self.groups.values()], timeout=READY_TIMEOUT_S)
        except ray.exceptions.GetTimeoutError:
            self.remove()
            free = ray.available_resources()
            raise ResourceError(
                f"the places of {', '.join(wanted)} were not free within {READY_TIMEOUT_S:.0f} s (free now: "
                f"{free.get('CPU', 0):g} CPUs, {free.get('GPU', 0):g} GPUs); stop other jobs, or change "
                f"resources.strategy when the bundles do not fit the nodes"
            ) from None
