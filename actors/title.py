"""How a process says what it is doing: in its title, which `ps` shows, and in its log, which the dashboard shows."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from rlhf.startup import started

BEFORE_LOADING = ("meeting_place",)  # calls that a role answers before it has loaded its model
_ARG_START, _ARG_END = 47, 48  # fields of /proc/PID/stat, counted from 0 (proc_pid_stat(5))


@contextmanager
def titled(name: str, doing: str) -> Iterator[None]:
    """The process's title is `ray::NAME DOING` inside the block, and `ray::NAME` until Ray gives it another one."""
    _set_title(f"ray::{name}", doing)
    try:
        yield
    finally:
        _set_title(f"ray::{name}", "")


def _set_title(name: str, rest: str) -> None:
    """Ray's agent makes the first word of a command line, up to its NUL, a tag of a dozen metrics: a step in it would
    give each of them a new series at every step. So the space after the name is made a NUL; `ps` shows it as a space.
    Where that cannot be done there is no rest. `ray::` is how Ray knows its workers.
    """
    from ray._raylet import setproctitle  # a second library for titles in one process would not find the first one's

    whole = f"{name} {rest}".encode()
    setproctitle(whole.decode() if rest else name)
    if not rest:
        return
    start, end = _arguments()
    if start and start + len(whole) < end and ctypes.string_at(start, len(whole)) == whole:
        ctypes.memset(start + len(name.encode()), 0, 1)
    else:
        setproctitle(name)


@cache
def _arguments() -> tuple[int, int]:
    """Where in memory this process keeps its command line; (0, 0) where the system does not say it."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0
    return int(fields[_ARG_START - 2]), int(fields[_ARG_END - 2])  # the first two stand before the bracket


class Titled:
    """What an actor of a pool has: a way to be called that shows what it was called for."""

    def at(self, step: int | None, method: str, *arguments: Any) -> Any:
        """Call a method of this process for a step of the run, counted from 1; None: for no step."""
        doing = method if step is None else f"step {step} {method}"
        if step is not None:
            print(time.strftime("%H:%M:%S"), doing, file=sys.stderr, flush=True)  # the log that its page shows first
        with titled(repr(self), doing):
            answer = getattr(self, method)(*arguments)
        if method not in BEFORE_LOADING:
            started()
        return answer
