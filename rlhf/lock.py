"""One run at a time in a directory."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rlhf.artifacts import make_durably
from rlhf.errors import RunError

LOCK = "lock"
_ATTEMPTS = 1000  # each of which found that another run had removed the directory meanwhile
_LAST_PID = 2**31 - 1  # pid_t of Linux


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names; `since`: seconds since 1970."""

    pid: int
    host: str
    since: float

    def described(self, form: str) -> str:
        """For people; `form` is that of the time, as strftime has it."""
        return f"process {self.pid} on {self.host} since {time.strftime(form, time.localtime(self.since))}"


def holder_in(content: str | bytes) -> Holder | None:
    """Who holds the directory by what its lock file holds; None where that names nobody: nothing, half a line, or
    anything else."""
    try:
        said = json.loads(content)
        found = Holder(said["pid"], said["host"], float(said["since"]))
        time.localtime(found.since)
    except (ValueError, KeyError, TypeError, OverflowError, OSError, RecursionError):
        return None
    is_process = type(found.pid) is int and 0 < found.pid <= _LAST_PID
    return found if is_process and isinstance(found.host, str) and found.host.isprintable() else None


@contextmanager
def locked(directory: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Hold a directory inside the block; RunError when another process does, on this machine or another.

    The kernel gives the lock back when its holder dies, however it does; what a dead holder left in the file is told
    to `note`. A file system without locks is told, too: nothing then keeps two runs apart.
    """
    # Not the `filelock` library: of what is here it would replace the call of flock. It knows no holder's name, its
    # fallback for file systems without locks survives the holder, and the directory may vanish between its attempts.
    with _taken(directory, note) as stream:
        if stream is None:
            yield
            return
        before = _owner(stream)
        if before is not None:
            note(f"{directory}: the run of {before} ended without a word; going on from what it has kept")
        _write(stream, json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()}))
        try:
            yield
        finally:
            _write(stream, "")


@contextmanager
def _taken(directory: Path, note: Callable[[str], None]) -> Iterator[IO[str] | None]:
    """The lock file, held; None on a file system without locks."""
    for _ in range(_ATTEMPTS):
        try:
            make_durably(directory)
            stream = open(directory / LOCK, "a+", encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below
        except FileNotFoundError:
            continue  # whoever made the directory has found nothing to keep in it
        with stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunError(
                    f"{directory}: in use by {_owner(stream) or 'another run'}; wait until it has ended, stop it, or "
                    f"give another output"
                ) from None
            except OSError as error:
                note(f"{directory}: this file system has no locks ({error.strerror}); start no second run there")
                yield None
                return
            if _is_at(stream, directory / LOCK):
                yield stream
                return
    raise RunError(f"{directory}: no lock can be made in it, {_ATTEMPTS} times; give another output")


def _is_at(stream: IO[str], path: Path) -> bool:
    """Whether an open file still has this name: its holder may have removed it before this process got the lock."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), os.stat(path))
    except FileNotFoundError:
        return False


def _owner(stream: IO[str]) -> str | None:
    """Who wrote the file, for people; None where it names nobody."""
    stream.seek(0)
    holder = holder_in(stream.read())
    return holder.described("%Y-%m-%d %H:%M:%S") if holder else None


def _write(stream: IO[str], text: str) -> None:
    stream.seek(0)
    stream.truncate()
    stream.write(text)
    stream.flush()
    os.fsync(stream.fileno())
