"""Waiting, after a loss, until what is left of a cluster has room for the run again."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from typing import Any

import ray

from actors.placement import require_room
from rlhf.errors import ResourceError
from rlhf.ppo.config import Resources

_LOOK_S = 1.0
_ANSWER_S = 2.0


def await_room(
    roles: Mapping[str, Resources], patience_s: float, note: Callable[[str], None], stop: Callable[[], bool]
) -> None:
    """Returns when the nodes that answer have room for the roles, or when `stop` answers True.

    Raises ResourceError, with what is missing, after `patience_s` seconds.
    """
    began, told = time.monotonic(), False
    while not stop():
        try:
            return require_room(roles, [node for node in ray.nodes() if node["Alive"] and answers(node)])
        except ResourceError as missing:
            if time.monotonic() - began > patience_s:
                raise ResourceError(
                    f"{missing}; no node came within replacement_s = {patience_s:g} s, and the same command goes on "
                    f"from the newest checkpoint"
                ) from None
            if not told:
                note(f"{missing}; waiting up to {patience_s:g} s for a node to come")
            told = True
        time.sleep(_LOOK_S)


def answers(node: Mapping[str, Any]) -> bool:
    """Whether a node can be reached from here. Ray lists a lost one as alive until its health checks have failed."""
    try:
        with socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=_ANSWER_S):
            return True
    except OSError:
        return False
