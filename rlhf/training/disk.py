"""What is said of disks: sizes, and that one is full."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.errors import RunError, UserError
from rlhf.full_disk import where_full


@contextmanager
def room_for(what: str, place: Path, needed: int | None = None) -> Iterator[None]:
    """A disk that fills up in the block is said in words: what was written to `place`, what it needs (bytes; None: more
    than it has by then), and what is free."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        if where_full(error) is None:
            raise
        need = f"more than {mib(size_of(place))}" if needed is None else mib(needed)
        raise RunError(no_room(what, place, need)) from error


def no_room(what: str, place: Path, needed: str) -> str:
    """The sentence about a full disk."""
    there = next(path for path in (place, *place.parents) if path.is_dir())
    return (
        f"{place}: no room for {what}: it needs {needed}, and {mib(shutil.disk_usage(there).free)} are free; "
        f"free some, or move the run to a larger disk; then run the same command"
    )


def size_of(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def mib(count: int) -> str:
    """Bytes for people."""
    return f"{count / 2**20:,.1f} MiB"
