"""Repeated timing on a machine that ought to be idle, and how busy others kept it meanwhile."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Timing:
    """Samples of one piece of work: wall time in seconds, and the cores that other processes used meanwhile."""

    seconds: list[float] = field(default_factory=list)
    others: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], object]) -> object:
        """Do `work` once and keep its time; returns what it returns."""
        busy, own, start = _busy_seconds(), _own_seconds(), time.perf_counter()
        result = work()
        wall = time.perf_counter() - start
        self.seconds.append(wall)
        self.others.append(max(0.0, (_busy_seconds() - busy - (_own_seconds() - own)) / wall))
        return result

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def as_dict(self) -> dict[str, list[float]]:
        return asdict(self)


def cores_in_use(seconds: float = 1.0) -> float:
    """Cores that the whole machine keeps busy, averaged over `seconds` of waiting."""
    busy, start = _busy_seconds(), time.perf_counter()
    time.sleep(seconds)
    return (_busy_seconds() - busy) / (time.perf_counter() - start)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system


def _busy_seconds() -> float:
    """CPU seconds that all processes have used since the machine started (Linux; elsewhere our own)."""
    try:
        line = Path("/proc/stat").read_text().split("\n", 1)[0]
    except FileNotFoundError:
        return _own_seconds()
    ticks = [int(number) for number in line.split()[1:9]]
    idle, waiting = ticks[3], ticks[4]
    return (sum(ticks) - idle - waiting) / os.sysconf("SC_CLK_TCK")


def write_result(path: Path, timings: dict[str, Timing], **facts: object) -> None:
    """Write what one side measured, for the process that compares the sides."""
    content = {"timings": {name: timing.as_dict() for name, timing in timings.items()}, **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
