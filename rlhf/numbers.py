"""Numbers in texts."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Any

# A minus stands for a sign where no digit, letter or point precedes it: 5-7 is a range, or a difference.
_NUMBER = re.compile(r"(?<![\w.])[-\u2212]?\d[\d,]*(?:\.\d+)?|\d[\d,]*(?:\.\d+)?", re.ASCII)


def last_number(text: str) -> Decimal | None:
    """The last decimal number of a text; thousands may be grouped by commas. None where there is none."""
    found = _NUMBER.findall(text)
    return Decimal(found[-1].replace(",", "").replace("\u2212", "-")) if found else None


def number_of(value: Any) -> Decimal | None:
    """A number as data give it: a number, or a text whose last number counts."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        return last_number(value)
    found = Decimal(repr(value))
    return found if found.is_finite() else None
