"""Run by test_crash_points.py with the shim loaded: a checkpoint is saved beside an older one, under every fault.

Arguments: a directory to work in. Prints the number of file operations of a save, and of saves that were disturbed.
"""

from __future__ import annotations

import errno
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState, Roles
from rlhf.ppo.rollout_file import read_rollout, write_rollout
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.faults.faults import (
    CRASHED,
    EXIT,
    FAIL,
    HALF,
    Fault,
    lose_unsynced_data,
    lose_unsynced_entries,
    under,
    undo_unsynced_renames,
)
from tests.ppo import fakes
from tests.ppo import test_rollout_file as rollouts

OLD, NEW = LoopState(2, 0.02), LoopState(4, 0.04)
FAILED = 3


def lose_all(done: list[list[str]]) -> None:
    """Whatever was not brought to disk."""
    lose_unsynced_data(done)
    lose_unsynced_entries(done)


LOSSES = {
    "nothing": lambda done: None, "data": lose_unsynced_data, "names": undo_unsynced_renames,
    "entries": lose_unsynced_entries, "all": lose_all,
}


@dataclass
class File:
    """A part of a checkpoint that is one file, and holds the step."""

    name: str
    write: Callable[[Path, int], None]
    read: Callable[[Path], int]
    step: int = -1

    def save(self, directory: Path) -> fakes.Pending:
        def work() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            self.write(directory / self.name, self.step)

        return fakes.Pending([], "save", work)

    def load(self, directory: Path) -> fakes.Pending:
        self.step = self.read(directory / self.name)
        return fakes.Pending([], "load")


def write_average(path: Path, step: int) -> None:
    save_file({"weight": torch.full((3, 5), float(step))}, str(path))


def write_waiting(path: Path, step: int) -> None:
    write_rollout(path, replace(rollouts.saved(greedy=True), prompts_used=step), ["text"] * 4)


def read_waiting(path: Path) -> int:
    return read_rollout(path, 0, rollouts.PARTS).prompts_used


def parts() -> tuple[Roles, tuple[File, File]]:
    """Roles whose critic is a file of safetensors, and whose collector has a rollout that waits for its step."""
    average = File("average_rank0.safetensors", write_average, lambda path: int(load_file(str(path))["weight"][2, 4]))
    waiting = File("waiting_000.parquet", write_waiting, read_waiting)
    return replace(fakes.roles(), critic=average, collector=waiting), (average, waiting)  # type: ignore[arg-type]


def save(directory: Path, state: LoopState) -> None:
    """Everything names its step; only the newest checkpoint stays."""
    roles, files = parts()
    roles.policy.weight = float(state.step)
    for file in files:
        file.step = state.step
    kept = DirectoryCheckpoints(directory, Keeping(1), lambda said: None)
    kept.save(roles, state, {})
    kept.finish()


def saving(directory: Path) -> int:
    try:
        save(directory, NEW)
    except (OSError, RunError, SafetensorError):
        return FAILED
    return 0


def restored(directory: Path) -> LoopState | None:
    """What a run goes on from; its parts must be of one step."""
    roles, files = parts()
    state = DirectoryCheckpoints(directory, Keeping(1), lambda said: None).restore(roles)
    assert state is not None and {roles.policy.weight, *(file.step for file in files)} == {state.step}, state
    return state


def points(directory: Path) -> list[int]:
    """The file operations of a save; of many writes to one file in a row the first and the last."""
    save(directory, OLD)
    done = under(Fault(EXIT, 0), directory, lambda: saving(directory)).done
    writes = [(kind, path) if kind == "write" else None for kind, path, _ in done]
    amid = [k for k, write in enumerate(writes) if write is not None and [write] * 3 == writes[max(0, k - 1) : k + 2]]
    return [k + 1 for k in range(len(done)) if k not in amid]


def disturbed(directory: Path, fault: Fault, loss: str) -> bool:
    """Save under a fault; whether it was seen. Afterwards the old state or the new one is there, and saving works."""
    shutil.rmtree(directory, ignore_errors=True)
    save(directory, OLD)
    after = under(fault, directory, lambda: saving(directory))
    if after.code == 0:  # a deletion that fails may be overlooked, and the save succeed in spite of it
        assert fault.mode == FAIL and restored(directory) == NEW, fault
        return False
    assert after.code == (FAILED if fault.mode == FAIL else CRASHED), (fault, after.code)
    LOSSES[loss](after.done)
    assert restored(directory) in (OLD, NEW), (fault, loss, after.done[-3:])
    save(directory, NEW)
    assert restored(directory) == NEW and [path.name for path in directory.iterdir()] == ["step_000004"], (fault, loss)
    return True


def main() -> None:
    directory = Path(sys.argv[1]) / "checkpoints"
    ways = [
        *((EXIT, 0, loss) for loss in LOSSES), (HALF, 0, "nothing"), (HALF, 0, "all"),
        *((FAIL, number, "nothing") for number in (errno.ENOSPC, errno.EIO)),
    ]
    operations = points(directory)
    for mode, number, loss in ways:
        hit = [disturbed(directory, Fault(mode, which, number), loss) for which in operations]
        print(mode, number, loss, sum(hit))


if __name__ == "__main__":
    main()
