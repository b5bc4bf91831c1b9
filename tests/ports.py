"""Ports for servers of tests."""

from __future__ import annotations

import random
import socket

# Below those that the kernel gives to outgoing connections (from 32768), one of which could take a free port before its
# server has started, and above those of Ray's workers (to 19999).
_RANGE = range(20_000, 32_000)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on."""
    while True:
        port = random.SystemRandom().choice(_RANGE)
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)):
                return port
