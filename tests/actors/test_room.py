"""After a loss a run waits for room: for a bounded time, in words, and only nodes that answer count."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from actors import room
from actors.room import await_room
from rlhf.errors import ResourceError
from rlhf.ppo.config import Resources

ROLES = {"policy": Resources(ranks=2, cpus=1.0, strategy="STRICT_SPREAD")}
MISSING = "policy: STRICT_SPREAD needs 2 nodes with 1 CPUs each, and the cluster has 1; use SPREAD, or lower ranks"


@pytest.fixture
def listening() -> Iterator[int]:
    """A port at which something answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def node(port: int, cpus: float = 4.0) -> dict[str, Any]:
    return {
        "Alive": True, "Resources": {"CPU": cpus}, "NodeManagerAddress": "127.0.0.1", "NodeManagerPort": port,
    }


def closed() -> int:
    """A port at which nothing answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def never() -> bool:
    return False


def test_with_room_nothing_is_said(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node(listening), node(listening)])
    await_room(ROLES, 0.0, pytest.fail, never)


def test_a_node_that_does_not_answer_is_none_though_ray_still_lists_it(
    listening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node(listening), node(closed())])
    with pytest.raises(ResourceError, match=f"{MISSING}; no node came within replacement_s = 0 s, and the same com"):
        await_room(ROLES, 0.0, lambda said: None, never)


def test_a_node_that_comes_is_taken(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes, notes = [node(listening)], []

    def note(said: str) -> None:
        notes.append(said)
        nodes.append(node(listening))

    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(room, "_LOOK_S", 0.02)
    await_room(ROLES, 60.0, note, never)
    assert notes == [f"{MISSING}; waiting up to 60 s for a node to come"]


def test_a_run_that_is_asked_to_end_waits_no_longer(listening: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "nodes", lambda: [node(listening)])
    monkeypatch.setattr(room, "_LOOK_S", 0.02)
    asked = threading.Event()
    threading.Timer(0.3, asked.set).start()
    await_room(ROLES, 60.0, lambda said: None, asked.is_set)
