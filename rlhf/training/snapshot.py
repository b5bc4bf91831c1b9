"""Ray Train's list of a job's checkpoints: read, kept whole, and shortened.

Ray Train writes it in place, so a kill may cut it short: a copy is made of each, whole and brought to disk.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.artifacts import sync, write_text

NAME, COPY = "checkpoint_manager_snapshot.json", "checkpoint_manager_snapshot.copy.json"
WORST = sys.float_info.max  # the validation loss of a checkpoint without one, or with one that is not finite
NEWEST = 2  # so many stay besides the best: when one is damaged, there is one before it


@dataclass(frozen=True)
class Saved:
    """A checkpoint in the list: its directory's name, its place in the order of time, what was measured there."""

    name: str
    order: int
    numbers: Mapping[str, Any]

    @property
    def loss(self) -> float:
        return self.numbers.get("validation_loss", WORST)

    @property
    def step(self) -> int | None:
        return self.numbers.get("step")


def saved(directory: Path) -> list[Saved]:
    """What is listed below the directory of an attempt, oldest first."""
    content = _read(directory / NAME) or _read(directory / COPY) or {}
    found = (Saved(entry["checkpoint_dir_name"], order, entry["metrics"]) for entry, order in _entries(content))
    return sorted(found, key=lambda each: each.order)


def best(among: Sequence[Saved]) -> Saved | None:
    """The one with the lowest validation loss; the newer of equals."""
    return min(reversed(among), key=lambda each: each.loss, default=None)


def staying(among: Sequence[Saved]) -> list[Saved]:
    """The newest and the best; the others are deleted, and stay in Ray Train's list until the next attempt."""
    return [each for each in among if each in among[-NEWEST:] or each == best(among)]


def keep_only(directory: Path, kept: Collection[Saved]) -> None:
    """Take all others out of the list; of those that stay, Ray Train goes on from the newest."""
    names, content = {each.name for each in kept}, _read(directory / NAME) or {}
    entries = [(entry, order) for entry, order in _entries(content) if entry["checkpoint_dir_name"] in names]
    newest = max(entries, key=lambda each: each[1])[0]
    shorter = {
        **content, "checkpoint_results": [entry for entry, _ in entries],
        "checkpoint_report_indices": [order for _, order in entries], "latest_checkpoint_result": newest,
    }
    write_text(directory / NAME, json.dumps(shorter))
    copy(directory)


def copy(directory: Path) -> None:
    """Keep the list as it is now."""
    draft = directory / f".{COPY}"
    with open(draft, "wb") as stream:
        stream.write((directory / NAME).read_bytes())
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(directory / COPY)
    sync(directory)


def mend(directory: Path) -> None:
    """Replace a list that was cut short, or is not there, by the one before it; without one, nothing was saved yet.

    A whole list is copied: a kill may have come before its copy, and what an older copy names is gone by now.
    """
    listed, copied = directory / NAME, directory / COPY
    if _read(listed) is not None:
        copy(directory)
    elif copied.exists():
        copied.replace(listed)
        copy(directory)
    else:
        listed.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any] | None:
    """None: there is no such list, or not the whole of it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        whole = isinstance(content, dict) and all(map(_is_entry, _entries(content)))
    except (FileNotFoundError, ValueError, TypeError, RecursionError):
        return None
    return content if whole else None


def _entries(content: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """What Ray Train has written of each checkpoint, and its place in the order of time."""
    listed = content.get("checkpoint_results", []), content.get("checkpoint_report_indices", [])
    return list(zip(*listed, strict=True))


def _is_entry(found: tuple[Any, Any]) -> bool:
    """Whether it can be one of Ray Train's; a name is no path."""
    entry, order = found
    name = entry.get("checkpoint_dir_name") if isinstance(entry, dict) else None
    named = isinstance(name, str) and name.startswith("checkpoint_") and "/" not in name
    return named and isinstance(entry.get("metrics"), dict) and isinstance(order, int)
