"""A process for code that is not ours: started without secrets, asked line by line, and ended when it does not answer.

Messages are JSON, one a line, over a socket of its own; what the code prints goes where our own prints go. The process
ends with ours, whatever it is doing: the kernel kills it when the other end of a pipe that it holds is closed.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from rlhf.errors import ConfigError
from rlhf.secrets import without_secrets

START_S = 120.0  # for importing what the code imports
ANSWER_BYTES = 64 * 2**20


class NoAnswer(Exception):
    """The guest did not answer in time, or ended; the message says which, as the end of a sentence about it."""


@dataclass(frozen=True)
class Errand:
    """What a guest is for: the module that hosts it, its callable, and the config key to blame.

    `hidden` and `passed` name environment variables that it does not, or does, get beside what is no secret.
    """

    host: str
    name: str
    file: str | None
    key: str
    hidden: Collection[str] = ()
    passed: Collection[str] = ()


class Guest:
    """A running guest that has found what it is to call."""

    def __init__(self, errand: Errand) -> None:
        """Raises ConfigError, with the key, when the callable cannot be had."""
        for name in errand.passed:
            if name not in os.environ:
                raise ConfigError(f"{errand.key}: pass_env names {name}, and there is no such environment variable")
        self.socket, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        self._unread = bytearray()
        command = [sys.executable, "-m", errand.host, str(theirs.fileno()), str(lifeline)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(), lifeline), start_new_session=True,
            env={**without_secrets(os.environ, errand.hidden, errand.passed), "PYTHONPATH": _paths()},
        )
        theirs.close()
        os.close(lifeline)
        self._require_loaded(errand)

    def _require_loaded(self, errand: Errand) -> None:
        wanted = {"name": errand.name, "file": errand.file, "key": errand.key, "path": sys.path}
        try:
            said = self.ask(wanted, START_S)
        except NoAnswer as error:
            self.close()
            raise ConfigError(f"{errand.key}: while '{errand.name}' was imported, its process {error}") from None
        if "refused" in said:
            self.close()
            raise ConfigError(said["refused"])

    def ask(self, message: Any, seconds: float) -> dict[str, Any]:
        """The answer to a message. Raises NoAnswer; then the guest must be closed: its answer may come yet."""
        deadline = time.monotonic() + seconds
        try:
            self.socket.settimeout(seconds)
            self.socket.sendall(json.dumps(message).encode() + b"\n")
            while b"\n" not in self._unread:
                self.socket.settimeout(max(0.001, deadline - time.monotonic()))
                part = self.socket.recv(2**16)
                if not part or len(self._unread) > ANSWER_BYTES:
                    raise ConnectionError
                self._unread += part
        except TimeoutError:
            raise NoAnswer(f"did not answer within {seconds:g} s") from None
        except OSError:
            raise NoAnswer(f"ended ({self.ending()})") from None
        line, _, rest = bytes(self._unread).partition(b"\n")
        self._unread = bytearray(rest)
        try:
            return dict(json.loads(line))
        except (ValueError, TypeError, RecursionError):
            raise NoAnswer("answered what is none of our messages") from None

    def ending(self) -> str:
        """How the process ended, for people; one that only closed its socket is ended first."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.close()
        code = self.process.returncode
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End the process, and those that it has started in its session."""
        if self.process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """The same, and forget it."""
        self.kill()
        self.process.wait()
        self.socket.close()
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1


def _paths() -> str:
    """So that the host module itself is found; sys.path follows with the first message."""
    return os.pathsep.join(path or os.getcwd() for path in sys.path)
