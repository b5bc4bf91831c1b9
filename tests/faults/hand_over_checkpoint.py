"""Run by test_crash_points.py with the shim loaded: a command takes a Ray Train job over from the one before it and
gets as far as its next checkpoint, under every fault.

Ours are the attempt's directory and its renaming, what is passed over, the workers' parts and how they are handed over,
the copy of the list, and what is deleted. The list itself is written by Ray Train's keeper of checkpoints, in this
process, and its operations are hit with ours. Ray's alone, and not covered here: that its controller asks for these in
this order, when all workers have reported; that it starts lost workers again; and its own files in a session's
directory. `make chaos` has workers that are killed in real jobs.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ray.train import Checkpoint

from rlhf.errors import RunError
from rlhf.training import snapshot
from rlhf.training.attempts import KeepSnapshot, attempts, begin
from rlhf.training.handing_over import handing_over
from rlhf.training.shares import damage, seal_share
from tests.faults.everywhere import report
from tests.training.keeper import keeper, report_of

KEY, RANKS = "abc", 2
LOSSES = {1: 0.1, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6}  # by step: the first checkpoint stays the best


def storage(root: Path) -> Path:
    return root / "sft.work" / "ray_train"


def part(root: Path, rank: int, step: int) -> Checkpoint:
    """What a worker wrote, in a directory of its own machine."""
    own = root.with_name(f"worker{rank}")
    shutil.rmtree(own, ignore_errors=True)
    (own / "state").mkdir(parents=True)
    (own / "state" / f"rank_{rank}.pt").write_text(f"{step}" * 1000)
    (own / "latest").write_text(f"{step}, by {rank}")
    seal_share(own, rank, RANKS)
    return Checkpoint.from_directory(own)


def begun(root: Path) -> Path:
    return begin(storage(root), KEY, lambda said: None)


def command(root: Path, step: int) -> None:
    """Take the job over and go on until there is a checkpoint of this step."""
    attempt = begun(root)

    async def controlled() -> None:
        kept = keeper(attempt)
        handed = [handing_over(attempt)(part(root, rank, step), f"checkpoint_{step}") for rank in range(RANKS)]
        kept.after_report(report_of(handed[0], LOSSES[step], step), [])
        KeepSnapshot(attempt).after_report(None, [], handed[0])

    asyncio.run(controlled())


def step_of(checkpoint: Path) -> int:
    """The step that all of a checkpoint is of."""
    assert damage(checkpoint) is None
    found = {(checkpoint / "state" / f"rank_{rank}.pt").read_text() for rank in range(RANKS)}
    (step,) = [step for step in LOSSES if found == {f"{step}" * 1000}]
    assert (checkpoint / "latest").read_text().startswith(f"{step}, by ")
    return step


def gone_on_from(attempt: Path) -> int | None:
    """The step whose checkpoint Ray Train goes on from; each that it knows is whole, and what its name says."""
    kept = keeper(attempt)
    known = [Path(each.checkpoint.path) for each in kept.best_checkpoint_results]
    assert all(path.name == f"checkpoint_{step_of(path)}" for path in known)
    latest = kept.latest_checkpoint_result
    return None if latest is None else step_of(Path(latest.checkpoint.path))


def nothing(root: Path) -> None: ...


def three(root: Path) -> None:
    for step in (1, 2, 3):
        command(root, step)


def three_and_a_damaged_one(root: Path) -> None:
    """A kill came while the workers handed over, another in the midst of a deletion; workers wrote late."""
    three(root)
    (attempt,) = attempts(storage(root), KEY)
    (attempt / "checkpoint_3" / "state" / "rank_1.pt").write_text("3" * 999 + "4")
    handing_over(attempt)(part(root, 0, 4), "checkpoint_4")
    (attempt / ".checkpoint_0.deleted").mkdir()
    (storage(root) / f"{KEY}.0001").mkdir()


def a_list_that_was_cut_short(root: Path) -> None:
    three(root)
    (attempt,) = attempts(storage(root), KEY)
    listed = attempt / snapshot.NAME
    listed.write_text(listed.read_text()[:50])


@dataclass(frozen=True)
class HandOver:
    """A command that goes on from the checkpoint of step `before`, or from the beginning, and writes one of step 4."""

    name: str
    prepare: Callable[[Path], None]
    before: int | None
    failures: tuple[type[Exception], ...] = (OSError, RunError)

    def do(self, root: Path) -> None:
        command(root, 4)

    def require_sound(self, root: Path, ended: bool) -> None:
        """The next command goes on from where this one did, or got; and gets on."""
        assert gone_on_from(begun(root)) in ((4,) if ended else (self.before, 4))
        command(root, 5)
        attempt = begun(root)
        assert gone_on_from(attempt) == 5
        stay = {each.name for each in snapshot.staying(snapshot.saved(attempt))}
        assert {path.name for path in attempt.glob("checkpoint_*/")} == stay


if __name__ == "__main__":
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    report([
        HandOver("the first of a job", nothing, None), HandOver("after three", three, 3),
        HandOver("after a damaged one", three_and_a_damaged_one, 2),
        HandOver("after a list that was cut short", a_list_that_was_cut_short, 3),
    ])
