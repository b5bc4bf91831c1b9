"""Cleaning, deduplicating, splitting and weighing of records, each a function of the records and a seed alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import Literal, TypeVar

Split = Literal["train", "validation", "heldout"]
Item = TypeVar("Item")

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ufeff]")


def clean_text(text: str) -> str:
    """Line ends as \\n, no control characters, no space at either end."""
    return _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")).strip()


def fingerprint(text: str) -> bytes:
    """16 bytes that are equal for equal texts."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def split_of(key: str, seed: int, validation: float, heldout: float) -> Split:
    """Where a record goes, by a hash of its key: equal keys go together, and growing a file moves nothing."""
    share = int.from_bytes(fingerprint(f"{seed}\x00{key}")[:8], "big") / 2**64
    if share < heldout:
        return "heldout"
    return "validation" if share < heldout + validation else "train"


def weigh(items: Sequence[Item], weight: float, random: Random) -> list[Item]:
    """Each item `weight` times: its whole part for all, the fraction for a random choice of them."""
    whole, part = divmod(weight, 1)
    extra = random.sample(range(len(items)), round(part * len(items)))
    return [*list(items) * int(whole), *(items[index] for index in sorted(extra))]


def documents(texts: Iterable[str], size: int, join: bool) -> Iterator[str]:
    """Texts of at most `size` characters, cut at line ends, else after sentences, else at spaces.

    With `join`, texts that follow each other (the lines of a book) are put together up to that size.
    """
    waiting = ""
    for text in texts:
        if join and waiting and len(waiting) + 1 + len(text) <= size:
            waiting = f"{waiting}\n{text}"
            continue
        if waiting:
            yield from _cut(waiting, size)
        waiting = text
    if waiting:
        yield from _cut(waiting, size)


def _cut(text: str, size: int) -> Iterator[str]:
    text = text.strip()
    while len(text) > size:
        ends = (text.rfind(mark, size // 2, size) for mark in ("\n", "。", ". ", " "))
        at = next((end + 1 for end in ends if end > 0), size)
        yield text[:at].rstrip()
        text = text[at:].lstrip()
    if text:
        yield text
