"""Work that is disturbed at every one of its file operations, one at a time; run with the shim loaded."""

from __future__ import annotations

import errno
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from tests.faults.faults import (
    CRASHED,
    EXIT,
    FAIL,
    HALF,
    Aftermath,
    Fault,
    Operation,
    lose_all,
    lose_unsynced_data,
    lose_unsynced_entries,
    under,
    undo_unsynced_renames,
)

FAILED = 3
LOSSES: dict[str, Callable[[Sequence[Operation]], None]] = {
    "nothing": lambda done: None, "data": lose_unsynced_data, "names": undo_unsynced_renames,
    "entries": lose_unsynced_entries, "all": lose_all,
}


class Work(Protocol):
    """What is done below a directory, which is there."""

    name: str
    failures: tuple[type[Exception], ...]
    """What it may raise when the disk fails."""

    def prepare(self, root: Path) -> None:
        """Make what is there before."""

    def do(self, root: Path) -> None:
        """The work."""

    def require_sound(self, root: Path, ended: bool) -> None:
        """Fails when the next process would not find what it may find: after work that came to its end, or did not.
        And that process has to get on with it."""


@dataclass(frozen=True)
class Way:
    """How a file operation goes wrong, and what of the others is lost then."""

    name: str
    mode: int
    loss: str = "nothing"
    errno: int = 0

    def concerns(self, kind: str) -> bool:
        """Whether it can befall such an operation; one that is no write is done or not."""
        return self.mode != HALF or kind == "write"


WAYS = (
    *(Way(f"ended, {loss} lost", EXIT, loss) for loss in LOSSES),
    *(Way(f"by half, {loss} lost", HALF, loss) for loss in ("nothing", "all")),
    Way("no space", FAIL, errno=errno.ENOSPC), Way("input/output error", FAIL, errno=errno.EIO),
)


@dataclass(frozen=True)
class Row:
    """Of the `operations` of a piece of work so many are `writes`, of which so many were `left_out`. At `tried` of them
    it was disturbed, and at `hit` of these that was noticed; a deletion that fails may be overlooked."""

    work: str
    way: str
    operations: int
    writes: int
    left_out: int
    tried: int
    hit: int


def rows(work: Work, root: Path, interior: int) -> Iterator[Row]:
    """Disturb a piece of work in each way at each operation; of the writes amid others at `interior` or a few more,
    evenly spread."""
    before, run = root / "before", root / "run"
    before.mkdir()
    work.prepare(before)
    done = _done(work, before, run)
    kinds, amid = [kind for kind, _ in done], _amid(done)
    left_out = set(amid) - set(amid[:: max(1, len(amid) // interior)])
    for way in WAYS:
        tried = [k for k, kind in enumerate(kinds) if k not in left_out and way.concerns(kind)]
        hit = [_disturbed(work, before, run, way, k + 1) for k in tried]
        overlooked = {kinds[k] for k, seen in zip(tried, hit, strict=True) if not seen}
        assert overlooked <= ({"unlink"} if way.mode == FAIL else set()), (work.name, way, overlooked)
        yield Row(work.name, way.name, len(kinds), kinds.count("write"), len(left_out), len(tried), sum(hit))
    shutil.rmtree(before)


def report(works: Sequence[Work]) -> None:
    """Of a script whose arguments are a directory to work in, how many of the writes amid others are wanted, and the
    names of works."""
    for work in works:
        if work.name in sys.argv[3:]:
            for row in rows(work, Path(sys.argv[1]), int(sys.argv[2])):
                print(json.dumps(asdict(row)), flush=True)


def _done(work: Work, before: Path, run: Path) -> list[tuple[str, str]]:
    """The operations of the work where nothing goes wrong, with their paths; what it has made outlives the machine."""
    for lose in LOSSES.values():
        after = _after(work, before, run, Fault(EXIT, 0))
        assert after.code == 0, work.name
        lose(after.done)
        work.require_sound(run, ended=True)
    return [(each.kind, each.path) for each in after.done]


def _amid(done: Sequence[tuple[str, str]]) -> list[int]:
    """Which are writes between two others to the same file."""
    return [k for k in range(1, len(done) - 1) if done[k][0] == "write" and done[k - 1] == done[k] == done[k + 1]]


def _disturbed(work: Work, before: Path, run: Path, way: Way, number: int) -> bool:
    """Whether it was noticed."""
    after = _after(work, before, run, Fault(way.mode, number, way.errno))
    said = (work.name, way, number, after.code, after.done[-3:])
    assert after.code in ((0, FAILED) if way.mode == FAIL else (CRASHED,)), said
    LOSSES[way.loss](after.done)
    try:
        work.require_sound(run, ended=after.code == 0)
    except Exception as error:
        raise AssertionError(said) from error
    return after.code != 0


def _after(work: Work, before: Path, run: Path, fault: Fault) -> Aftermath:
    shutil.rmtree(run, ignore_errors=True)
    shutil.copytree(before, run)
    return under(fault, run, lambda: _outcome(work, run))


def _outcome(work: Work, run: Path) -> int:
    try:
        work.do(run)
    except work.failures:
        return FAILED
    return 0
