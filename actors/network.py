"""Which network interface a node is known by."""

from __future__ import annotations

import os

import psutil


def interface_of(address: str) -> str | None:
    """The interface of this machine that has an address; None where none has."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            return name
    return None


def collectives_at(address: str) -> None:
    """Let this process's collectives on CPUs (gloo) use the interface of the address by which Ray knows its node.

    gloo by itself looks its host's name up, which Debian resolves to loopback; other nodes cannot connect to that.
    A choice of the user's, GLOO_SOCKET_IFNAME, stays.
    """
    interface = interface_of(address)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
