"""SIGTERM as a request: the work at hand is brought to a point from which it can go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_CODE = 128 + signal.SIGTERM  # as a shell has it


@contextmanager
def requests(note: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Inside the block the first SIGTERM is only noted, and the function that the block is given answers True from
    then on; the second ends the process at once. Only the main thread of a process can ask for signals; elsewhere
    nothing changes."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        note("SIGTERM: ends after this step, with a checkpoint; a second signal ends it at once")

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield asked.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
