"""What a check says about a manifest, and a way through content of any shape that remembers where it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Finding:
    """One sentence about one place of an object: what is wrong, then the remedy."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{dotted(self.path)}: {self.message}" if self.path else self.message


class Fault(Finding):
    """The API server or the operator would refuse it, or do something else than it says."""


class Advice(Finding):
    """It would be taken, and is better changed."""


def dotted(path: Path) -> str:
    """`("spec", "groups", 0, "a.b/c")` → `spec.groups[0].a.b/c`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


@dataclass(frozen=True)
class Cursor:
    """A value and its path. Whatever is absent, or of another type than is asked for, is None or empty: what the
    schema complains about must not stop the rules behind it."""

    value: Any
    path: Path = ()

    def __getitem__(self, key: str | int) -> Cursor:
        value = self.value
        if isinstance(key, int):
            found = value[key] if isinstance(value, list) and -len(value) <= key < len(value) else None
        else:
            found = value.get(key) if isinstance(value, Mapping) else None
        return Cursor(found, (*self.path, key))

    def at(self, *keys: str | int) -> Cursor:
        """The value several keys further down."""
        found = self
        for key in keys:
            found = found[key]
        return found

    def __iter__(self) -> Iterator[Cursor]:
        """The elements of a list, or the values of a mapping."""
        if isinstance(self.value, list):
            return (self[index] for index in range(len(self.value)))
        if isinstance(self.value, Mapping):
            return (self[key] for key in self.value if isinstance(key, str))
        return iter(())

    def __bool__(self) -> bool:
        """Whether it is there and not empty, as the operator's language sees it: "", 0, false, {} and [] are not."""
        return bool(self.value)

    @property
    def given(self) -> bool:
        return self.value is not None

    @property
    def key(self) -> str:
        """The last part of the path."""
        return str(self.path[-1]) if self.path else ""

    @property
    def text(self) -> str:
        return self.value if isinstance(self.value, str) else ""

    @property
    def number(self) -> float | None:
        return self.value if isinstance(self.value, int | float) and not isinstance(self.value, bool) else None

    @property
    def keys(self) -> list[str]:
        return [str(key) for key in self.value] if isinstance(self.value, Mapping) else []

    @property
    def length(self) -> int:
        return len(self.value) if isinstance(self.value, list | Mapping) else 0

    def fault(self, message: str) -> Fault:
        return Fault(self.path, message)

    def advice(self, message: str) -> Advice:
        return Advice(self.path, message)
