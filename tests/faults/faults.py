"""File operations that go wrong one at a time: builds the shim, and speaks to it in a process that has it loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.limits import HANG_S

EXIT, HALF, FAIL = 1, 2, 3  # as in faults.cpp
SOURCE = Path(__file__).with_name("faults.cpp")
CRASHED = 137


def build(directory: Path, source: Path = SOURCE) -> Path:
    """Compile a shim."""
    library = directory / f"{source.stem}.so"
    compiler = os.environ.get("CXX") or shutil.which("c++") or "g++"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return library


def run_with(library: Path, script: Path, *arguments: str) -> str:
    """Run a Python script with the shim loaded; its output. Fails with what it said."""
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "LD_PRELOAD": str(library), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, str(script), *arguments], env=environment, capture_output=True, text=True, timeout=HANG_S
    )
    assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
    return ended.stdout


@dataclass(frozen=True)
class Fault:
    """The `which`-th file operation: the process ends before it, or in the midst of it, or it fails with an errno."""

    mode: int
    which: int
    errno: int = 0


@dataclass(frozen=True)
class Aftermath:
    """How a piece of work under a fault ended: its exit code, and the operations that were done."""

    code: int
    done: list[list[str]]


def under(fault: Fault, directory: Path, work: Callable[[], int]) -> Aftermath:
    """Do the work in a fork with a fault below `directory`; its exit code is what it returns."""
    journal = directory.with_name(directory.name + ".journal")
    child = os.fork()
    if child == 0:
        ctypes.CDLL(None).faults_arm(
            str(directory).encode(), str(journal).encode(), fault.mode, ctypes.c_long(fault.which), fault.errno
        )
        code = 99
        try:
            code = work()
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    done = [line.split("\t") for line in journal.read_text().splitlines()]
    journal.unlink()
    return Aftermath(os.waitstatus_to_exitcode(status), done)


def lose_unsynced_data(done: list[list[str]]) -> None:
    """What a machine does that loses power: files that were written and not brought to disk are empty now."""
    dirty: set[str] = set()
    for kind, path, other in done:
        if kind == "write":
            dirty.add(path)
        elif kind == "sync":
            dirty.discard(path)
        elif kind == "rename":
            dirty = {_moved(name, path, other) for name in dirty}
        elif kind == "unlink":
            dirty.discard(path)
    for path in dirty:
        if os.path.isfile(path):
            os.truncate(path, 0)


def undo_unsynced_renames(done: list[list[str]]) -> None:
    """The same for names: a rename is lost unless the directory was brought to disk after it."""
    pending: list[tuple[str, str]] = []
    for kind, path, other in done:
        if kind == "rename":
            pending.append((path, other))
        elif kind == "sync":
            pending = [(source, target) for source, target in pending if os.path.dirname(target) != path]
    for source, target in reversed(pending):
        if os.path.exists(target) and not os.path.exists(source):
            os.rename(target, source)


def lose_unsynced_entries(done: list[list[str]]) -> None:
    """The same for directories: what was made or renamed in one is not there unless it was brought to disk after it."""
    made: set[str] = set()
    pending: list[tuple[str, str | None]] = []  # a name, and the one that it had before
    for kind, path, other in done:
        if kind == "rename":
            made = {_moved(name, path, other) for name in made}
            pending = [(_moved(name, path, other), before and _moved(before, path, other)) for name, before in pending]
            pending.append((other, path))
        elif kind in ("create", "mkdir") or (path not in made and os.path.dirname(path) in made):
            made.add(path)  # or renamed by a call that no shim sees, as safetensors does: then it is seen here at first
            pending.append((path, None))
        elif kind == "sync":
            pending = [(name, before) for name, before in pending if os.path.dirname(name) != path]
    # All are named as they were at last, so a directory takes its former name after what lies in it.
    pending.reverse()
    pending.sort(key=lambda entry: entry[1] is not None and os.path.isdir(entry[0]))
    for name, before in pending:
        _lose(name, before)


def _lose(name: str, before: str | None) -> None:
    if before is None:
        shutil.rmtree(name) if os.path.isdir(name) else Path(name).unlink(missing_ok=True)
    elif os.path.exists(name) and not os.path.exists(before):
        os.rename(name, before)


def _moved(name: str, source: str, target: str) -> str:
    return target + name[len(source):] if name == source or name.startswith(source + "/") else name
