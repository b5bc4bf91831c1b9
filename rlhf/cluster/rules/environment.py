"""Where the container that runs Ray is, and what its environment holds."""

from __future__ import annotations

from rlhf.cluster.findings import Cursor

HEAD = "headGroupSpec"


def container_of(group: Cursor) -> Cursor:
    """The container that runs Ray: the first one of a group's pods."""
    return group.at("template", "spec", "containers", 0)


def variable(container: Cursor, name: str) -> Cursor | None:
    """An entry of a container's env; None where it is not set there."""
    return next((entry for entry in container["env"] if entry["name"].value == name), None)


def is_on(entry: Cursor | None) -> bool:
    """Whether a variable is set to what Ray reads as yes."""
    return entry is not None and entry["value"].text in ("1", "true")
