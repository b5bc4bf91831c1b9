"""Files that someone else is writing: read as far as they are whole, missing without an error."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Growing:
    """The objects of a JSON lines file; each call reads what was added since the last.

    A line without its end waits for the next call; one that is no object is left out. A file that was replaced or has
    become shorter is read anew; while it is not there, there are no rows.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    _read: int = 0
    _number: int | None = None

    def refresh(self) -> list[dict[str, Any]]:
        """All rows that are whole by now."""
        try:
            with open(self.path, "rb") as stream:
                self._take(stream)
        except (OSError, ValueError):
            self._forget(None)
        return self.rows

    def _take(self, stream: Any) -> None:
        number, size = _identity(stream)
        if number != self._number or size < self._read:
            self._forget(number)
        stream.seek(self._read)
        for line in stream:
            if not line.endswith(b"\n"):
                break
            self._read += len(line)
            self.rows.extend(_object(line))

    def _forget(self, number: int | None) -> None:
        self.rows, self._read, self._number = [], 0, number


def _identity(stream: Any) -> tuple[int, int]:
    status = os.fstat(stream.fileno())
    return status.st_ino, status.st_size


def _object(line: bytes) -> list[dict[str, Any]]:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return [content] if isinstance(content, dict) else []


def number(value: Any) -> float | None:
    """A JSON value as a number; None where it is none, or larger than a float can be."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def text(value: Any) -> str:
    """A value as text that any terminal takes: half a character, which JSON can hold, becomes a question mark."""
    return str(value).encode(errors="replace").decode()


def read_content(path: Path) -> bytes:
    """What a file holds; nothing when it is not there, or cannot be read."""
    try:
        return path.read_bytes()
    except (OSError, ValueError):  # ValueError: no file can have this name
        return b""


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty when there is none, or not a whole one."""
    return next(iter(_object(read_content(path))), {})


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; empty when there is none, or not a whole one."""
    import yaml

    try:
        content = yaml.safe_load(read_content(path))
    except (ValueError, RecursionError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def changed_at(path: Path) -> float | None:
    """When a file was last written, seconds since 1970; None when it is not there."""
    try:
        return path.stat().st_mtime
    except (OSError, ValueError):
        return None


def names_in(directory: Path) -> list[str]:
    """Names in a directory, sorted; none when it is not there."""
    try:
        return sorted(path.name for path in directory.iterdir())
    except (OSError, ValueError):
        return []
