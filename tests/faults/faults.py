"""File operations that go wrong one at a time: builds the shim, and speaks to it in a process that has it loaded."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
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
class Operation:
    """Of a rename also its target, and under which name the file is kept that it replaced, if it did."""

    kind: str
    path: str
    target: str
    replaced: str


@dataclass(frozen=True)
class Aftermath:
    """How a piece of work under a fault ended: its exit code, and the operations that were done."""

    code: int
    done: list[Operation]


def under(fault: Fault, directory: Path, work: Callable[[], int]) -> Aftermath:
    """Do the work in a fork with a fault below `directory`; its exit code is what it returns. Journal and replaced
    files lie beside the directory."""
    journal, replaced = (directory.with_name(directory.name + end) for end in (".journal", ".replaced"))
    shutil.rmtree(replaced, ignore_errors=True)
    replaced.mkdir()
    child = os.fork()
    if child == 0:
        places = (str(path).encode() for path in (directory, journal, replaced))
        ctypes.CDLL(None).faults_arm(*places, fault.mode, ctypes.c_long(fault.which), fault.errno)
        code = 99
        try:
            code = work()
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    done = [Operation(*line.split("\t")) for line in journal.read_text().splitlines()]
    journal.unlink()
    return Aftermath(os.waitstatus_to_exitcode(status), done)


def lose_unsynced_data(done: Sequence[Operation]) -> None:
    """What a machine does that loses power: files that were written and not brought to disk are empty now."""
    dirty: set[str] = set()
    for each in done:
        if each.kind in ("write", "truncate"):
            dirty.add(each.path)
        elif each.kind in ("sync", "unlink"):
            dirty.discard(each.path)
        elif each.kind == "rename":
            dirty = {each.replaced if name == each.target else _moved(name, each) for name in dirty}
    for path in dirty:
        if os.path.isfile(path):
            os.truncate(path, 0)


def undo_unsynced_renames(done: Sequence[Operation]) -> None:
    """The same for names: a rename is lost unless the directory was brought to disk after it."""
    pending: list[Operation] = []
    for each in done:
        if each.kind == "rename":
            pending.append(each)
        elif each.kind == "sync":
            pending = [rename for rename in pending if os.path.dirname(rename.target) != each.path]
    for rename in reversed(pending):
        _lose(rename.target, rename.path, rename.replaced)


def lose_unsynced_entries(done: Sequence[Operation]) -> None:
    """The same for directories: what was made or renamed in one is not there unless it was brought to disk after it."""
    made: set[str] = set()
    pending: list[tuple[str, str, str]] = []  # a name, the one that is on disk ("": none), the file that it replaced
    for each in done:
        if each.kind == "rename":
            made = {_moved(name, each) for name in made}
            on_disk = next((before for name, before, _ in pending if name == each.path), each.path)
            others = [entry for entry in pending if entry[0] != each.path]
            pending = [(_moved(name, each), _moved(before, each), replaced) for name, before, replaced in others]
            pending.append((each.target, on_disk, each.replaced))
        elif each.kind in ("create", "mkdir") or (each.path not in made and os.path.dirname(each.path) in made):
            made.add(each.path)  # or renamed by a call that no shim sees, as safetensors does: here it is seen at first
            pending.append((each.path, "", ""))
        elif each.kind == "sync":
            pending = [entry for entry in pending if os.path.dirname(entry[0]) != each.path]
    # All are named as they were at last, so a directory takes its former name after what lies in it.
    pending.reverse()
    pending.sort(key=lambda entry: entry[1] != "" and os.path.isdir(entry[0]))
    for entry in pending:
        _lose(*entry)


def lose_all(done: Sequence[Operation]) -> None:
    """Whatever was not brought to disk."""
    lose_unsynced_data(done)
    lose_unsynced_entries(done)


def _lose(name: str, before: str, replaced: str) -> None:
    """Take a name away; what had it before has it again."""
    if not before:
        shutil.rmtree(name) if os.path.isdir(name) else Path(name).unlink(missing_ok=True)
    elif os.path.exists(name) and not os.path.exists(before):
        os.rename(name, before)
    if replaced and not os.path.exists(name):
        os.rename(replaced, name)


def _moved(name: str, rename: Operation) -> str:
    source = rename.path
    return rename.target + name[len(source):] if name == source or name.startswith(source + "/") else name
