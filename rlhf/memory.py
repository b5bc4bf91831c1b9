"""Peak memory of a process tree, counted as PSS so that shared pages count once; and errors that say it ran out."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import psutil

GIB = 1024**3
_RAN_OUT = re.compile(r"out of memory|MemoryError|not enough memory|OutOfMemory|Cannot allocate memory", re.IGNORECASE)


def ran_out(error: object) -> bool:
    """Whether an error says that memory ran out; allocators have words of their own."""
    return _RAN_OUT.search(f"{type(error).__name__} {error}") is not None


def pss_gib(root: psutil.Process) -> float:
    """Proportional set size of a process and its descendants, GiB (Linux; elsewhere their RSS)."""
    total = 0
    for process in [root, *_children(root)]:
        total += _pss_bytes(process)
    return total / GIB


def _children(root: psutil.Process) -> list[psutil.Process]:
    try:
        return root.children(recursive=True)
    except psutil.Error:
        return []


def _pss_bytes(process: psutil.Process) -> int:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
        return process.memory_info().rss
    except (OSError, psutil.Error):
        return 0


class PeakMemory:
    """Samples the memory of this process and its descendants until stopped; `gib` is the highest sample so far."""

    def __init__(self, interval_s: float = 2.0) -> None:
        self.gib = 0.0
        self._interval = interval_s
        self._root = psutil.Process()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._sample()  # at once: a block may be over before the thread has run
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopped.wait(self._interval):
            self._sample()

    def _sample(self) -> None:
        self.gib = max(self.gib, pss_gib(self._root))
