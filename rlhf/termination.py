"""SIGTERM as a request: the work at hand is brought to a point from which it can go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from types import FrameType
from typing import Protocol

from rlhf.errors import Terminated

EXIT_CODE = 128 + signal.SIGTERM  # as a shell has it


class Interrupted(BaseException):
    """Work that may be given up was, because the run was asked to end."""


class Stop(Protocol):
    """Whether a run was asked to end."""

    def __call__(self) -> bool: ...

    def interrupts(self) -> AbstractContextManager[None]:
        """Inside the block a request raises Interrupted, also one that came before."""


class Requests:
    """The `Stop` of a process that is sent SIGTERM."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._interrupting = False

    def __call__(self) -> bool:
        return self._asked.is_set()

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        self._interrupting = True
        try:
            if self._asked.is_set():
                raise Interrupted
            yield
        finally:
            self._interrupting = False

    def ask(self) -> None:
        """In the main thread, which is where Interrupted is raised."""
        self._asked.set()
        if self._interrupting:
            self._interrupting = False
            raise Interrupted


def ends_process() -> None:
    """From now on SIGTERM ends this process as an exception does: what it started is stopped, and the exit code is 143.
    Called again after Ray has started, which has a handler of its own. Does nothing in other threads than the main."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    sys.exit(EXIT_CODE)


@contextmanager
def requests(note: Callable[[str], None], on_request: Callable[[], None] = lambda: None) -> Iterator[Stop]:
    """Inside the block the first SIGTERM is a request, of which the `Stop` knows that the block is given; the second
    ends the process at once. `on_request` is called when it comes. Only the main thread of a process can ask for
    signals; elsewhere nothing changes."""
    stop = Requests()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        on_request()
        with suppress(OSError, RuntimeError):  # nobody reads any more, or the signal came amid another line
            note("SIGTERM: ends as soon as there is a checkpoint; a second signal ends it at once")
        stop.ask()

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


def terminated(stage: str, reached: str) -> Terminated:
    """What is raised when a stage has ended on request and kept its state."""
    return Terminated(f"{stage}: ended on SIGTERM after {reached}; the same command goes on")
