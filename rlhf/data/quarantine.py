"""Records that are set aside because they are no records, each with its place and the reason; counted per file."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rlhf.errors import DataError

SHOWN = 2000  # characters of a record that are kept
OnBad = Callable[[DataError, Any], None]
"""Told of a record that is none, and given what is there instead."""


def refuse(error: DataError, found: Any) -> NoReturn:
    """A bad record ends the reading."""
    raise error


@dataclass
class Quarantine:
    """What was set aside so far. `max_fraction`: of a file's records; more is an error."""

    max_fraction: float
    bad: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, file: str, error: DataError, found: Any) -> None:
        """Set a record of a file aside."""
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=True, default=repr)
        self.bad.append({"reason": str(error), "record": text[:SHOWN]})
        self.counts[file] = self.counts.get(file, 0) + 1

    def check(self, file: str, good: int) -> None:
        """A file has been read. Raises DataError, with the first reason, when too many of its records are bad."""
        bad = self.counts.get(file, 0)
        if bad > self.max_fraction * (good + bad):
            raise DataError(
                f"{self.bad[-bad]['reason']}; {bad} of {good + bad} records of {file} are bad, more than "
                f"source.max_bad = {self.max_fraction:g}"
            )

    def write(self, path: Path) -> None:
        """One JSON object a line, ASCII alone: what is wrong with a record may be its characters."""
        path.write_text("".join(json.dumps(row) + "\n" for row in self.bad), encoding="ascii")
