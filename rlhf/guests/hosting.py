"""The guest's side: how its process begins. Imports as little as it can."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from rlhf.errors import ConfigError
from rlhf.loading import load_callable


def arrive() -> tuple[Any, Callable[..., Any]]:
    """The channel (a binary file of lines) and what is to be called; ends the process when that cannot be had."""
    channel, lifeline = socket.socket(fileno=int(sys.argv[1])), int(sys.argv[2])
    _end_with(lifeline)
    os.set_inheritable(channel.fileno(), False)
    stream = channel.makefile("rwb")
    wanted = json.loads(stream.readline())
    sys.path[:] = wanted["path"]
    try:
        found = load_callable(wanted["name"], wanted["file"], wanted["key"])
    except ConfigError as error:
        say(stream, {"refused": str(error)})
        sys.exit(0)
    say(stream, {"loaded": True})
    return stream, found


def say(stream: Any, message: dict[str, Any]) -> None:
    """Answer with one line."""
    stream.write(json.dumps(message).encode() + b"\n")
    stream.flush()


def _end_with(lifeline: int) -> None:
    """Let the kernel kill this process when the other end of the pipe is closed: no thread of ours need run for it."""
    os.set_inheritable(lifeline, False)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before
        sys.exit(1)
