"""`events.jsonl` of a work directory: what a stage said and when it began, for those who look at it from outside."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.metrics import read_objects
from rlhf.progress import Progress

EVENTS = "events.jsonl"


def add_event(work: Path, **content: Any) -> None:
    """Append an event with its time, seconds since 1970. A directory that is not there yet takes none."""
    if work.is_dir():
        with open(work / EVENTS, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"time": round(time.time(), 3), **content}, ensure_ascii=False) + "\n")


def read_events(work: Path) -> list[dict[str, Any]]:
    """The events of a work directory, oldest first."""
    return read_objects(work / EVENTS)


class Remembering:
    """Another progress display whose notes, and the number of steps to be done, are also kept as events of `work`."""

    def __init__(self, shown: Progress, work: Path) -> None:
        self._shown = shown
        self._work = work
        self._totals: dict[str, int] = {}

    def note(self, text: str) -> None:
        self._shown.note(text)
        add_event(self._work, note=text)

    def step(self, label: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        self._shown.step(label, done, total, numbers)
        if self._totals.get(label) != total:
            self._totals[label] = total
            add_event(self._work, label=label, done=done, total=total)

    def close(self) -> None:
        self._shown.close()
