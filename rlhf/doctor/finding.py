"""What a check has found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "warn", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; whatever is not ok says what to do about it."""

    level: Level
    subject: str
    found: str
    remedy: str = ""

    def __post_init__(self) -> None:
        if (self.level == "ok") == bool(self.remedy):
            raise ValueError(f"{self.subject}: a remedy belongs to what is not ok, and to nothing else")

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{self.level:<4}  {self.subject:<14}  {self.found}{remedy}"


def ok(subject: str, found: str) -> Finding:
    """Nothing to do."""
    return Finding("ok", subject, found)


def warn(subject: str, found: str, remedy: str) -> Finding:
    """It works, or may work, but not well."""
    return Finding("warn", subject, found, remedy)


def fail(subject: str, found: str, remedy: str) -> Finding:
    """It does not work, or must not be used."""
    return Finding("FAIL", subject, found, remedy)
