"""The texts that a tokenizer learns from, out of any of the project's record kinds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rlhf.data.readers import read_records
from rlhf.data.schemas import whole
from rlhf.errors import DataError

_KNOWN = ("text", "messages", "prompt", "chosen", "rejected")


def read_texts(files: Iterable[Path | str]) -> Iterator[tuple[str, str]]:
    """Every (language, text) of the files, in their order; "?" where a record names no language.

    Records may be of any kind (text, instruction, preference, prompt). Raises DataError, with file and line, for
    a missing, empty or malformed file and for a record without any text.
    """
    for file in files:
        for line, record in read_records(file):
            place = f"{file}:{line}"
            lang = whole(str(record.get("lang", "?")), place)
            for text in _texts(record, place):
                yield lang, whole(text, place)


def _texts(record: Mapping[str, Any], place: str) -> Iterator[str]:
    known = [key for key in _KNOWN if key in record]
    if not known:
        raise DataError(f"{place}: no text in this record; expected one of the keys {', '.join(_KNOWN)}")
    for key in known:
        value = record[key]
        if isinstance(value, str):
            yield value
        elif key in ("messages", "prompt") and isinstance(value, list):
            yield from _turns(value, f"{place}: key '{key}'")
        else:
            raise DataError(f"{place}: key '{key}' holds a {type(value).__name__}; expected text")


def _turns(turns: list[Any], place: str) -> Iterator[str]:
    """Roles are yielded too: the chat template writes them in every turn, so they deserve tokens of their own."""
    for turn in turns:
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(key), str) for key in ("role", "content")):
            raise DataError(f"{place}: every turn needs the texts 'role' and 'content'")
        yield turn["role"]
        yield turn["content"]
