"""Writes records in the form that the stages exchange: UTF-8 JSON, one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def write_jsonl(path: Path, records: Iterable[Mapping[str, Any]]) -> int:
    """Write one line per record, absent values left out; returns how many."""
    count = 0
    with open(path, "w", encoding="utf-8", newline="\n") as stream:
        for record in records:
            line = {key: value for key, value in record.items() if value is not None}
            stream.write(json.dumps(line, ensure_ascii=False) + "\n")
            count += 1
    return count
