"""Collectives on CPUs use the interface of the node's address."""

from __future__ import annotations

import os

import pytest

from actors.network import collectives_at, interface_of


def test_the_interface_that_has_an_address() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") is None


@pytest.mark.parametrize(("chosen", "expected"), [(None, "lo"), ("eth7", "eth7")])
def test_a_choice_of_the_users_stays(chosen: str | None, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", chosen or "")
    if chosen is None:
        monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    collectives_at("127.0.0.1")
    assert os.environ["GLOO_SOCKET_IFNAME"] == expected
