"""One run at a time in a work directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from rlhf.errors import RunError

LOCK = "lock"


@contextmanager
def locked(work: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold a directory inside the block; RunError when another process does, on this machine or another.

    The kernel gives the lock back when its holder dies, however it does; what a dead holder left in the file is told
    to `note`. A file system without locks is told, too: nothing then keeps two runs apart.
    """
    work.mkdir(parents=True, exist_ok=True)
    with open(work / LOCK, "a+", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunError(
                f"{work}: in use by {_owner(stream) or 'another run'}; wait until it has ended, stop it, or give "
                f"another output"
            ) from None
        except OSError as error:
            note(f"{work}: this file system has no locks ({error.strerror}); start no second run there")
            yield
            return
        before = _owner(stream)
        if before is not None:
            note(f"{work}: the run of {before} ended without a word; going on from what it has kept")
        _write(stream, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        try:
            yield
        finally:
            _write(stream, "")


def _owner(stream: IO[str]) -> str | None:
    """Who wrote the file, for people; None where it is empty."""
    stream.seek(0)
    try:
        content = json.loads(stream.read())
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(content["since"]))
        return f"process {content['pid']} on {content['host']} since {since}"
    except (ValueError, KeyError, TypeError):
        return None


def _write(stream: IO[str], text: str) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())
