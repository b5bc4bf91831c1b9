"""Records that are set aside because they are no records, each with its place and the reason; counted per file."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
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
class Reading:
    """One reading of a file, or of as much of it as was wanted: how many records were good, and the others."""

    file: str
    good: int = 0
    bad: list[dict[str, str]] = field(default_factory=list)

    def add(self, error: DataError, found: Any) -> None:
        """Set a record aside."""
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=True, default=repr)
        self.bad.append({"reason": str(error), "record": text[:SHOWN]})


@dataclass
class Quarantine:
    """What was set aside so far. `max_fraction`: of the records of a reading; more is an error."""

    max_fraction: float
    readings: list[Reading] = field(default_factory=list)

    def begin(self, file: str) -> Reading:
        """A file is about to be read."""
        self.readings.append(Reading(file))
        return self.readings[-1]

    def check(self) -> None:
        """Raises DataError, with the first reason, when too many records of a reading are bad."""
        for reading in self.readings:
            bad, whole = len(reading.bad), len(reading.bad) + reading.good
            if bad > self.max_fraction * whole:
                raise DataError(
                    f"{reading.bad[0]['reason']}; {bad} of {whole} records of {reading.file} are bad, more than "
                    f"source.max_bad = {self.max_fraction:g}"
                )

    def counts(self) -> Mapping[str, int]:
        """Bad records by file."""
        found: Counter[str] = Counter()
        for reading in self.readings:
            found.update({reading.file: len(reading.bad)} if reading.bad else {})
        return dict(found)

    def write(self, path: Path) -> None:
        """One JSON object a line, ASCII alone: what is wrong with a record may be its characters."""
        rows = [row for reading in self.readings for row in reading.bad]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="ascii")
