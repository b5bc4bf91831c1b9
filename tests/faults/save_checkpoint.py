"""Run by test_crash_points.py with the shim loaded: a checkpoint is saved beside an older one, under every fault.

Arguments: a directory to work in. Prints the number of file operations of a save, and of saves that were disturbed.
"""

from __future__ import annotations

import errno
import shutil
import sys
from pathlib import Path

from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.faults.faults import (
    CRASHED,
    EXIT,
    FAIL,
    HALF,
    Fault,
    lose_unsynced_data,
    under,
    undo_unsynced_renames,
)
from tests.ppo import fakes

OLD, NEW = LoopState(2, 0.02), LoopState(4, 0.04)
LOSSES = {
    "nothing": lambda done: None, "data": lose_unsynced_data, "names": undo_unsynced_renames,
}
FAILED = 3


def save(directory: Path, state: LoopState) -> None:
    """Weights name their step; only the newest checkpoint stays."""
    roles = fakes.roles()
    roles.policy.weight, roles.critic.weight = float(state.step), float(-state.step)
    kept = DirectoryCheckpoints(directory, Keeping(1), lambda said: None)
    kept.save(roles, state, {})
    kept.finish()


def saving(directory: Path) -> int:
    try:
        save(directory, NEW)
    except (OSError, RunError):
        return FAILED
    return 0


def restored(directory: Path) -> LoopState | None:
    """What a run goes on from; its parts must be of one step."""
    roles = fakes.roles()
    state = DirectoryCheckpoints(directory, Keeping(1), lambda said: None).restore(roles)
    assert state is not None and (roles.policy.weight, roles.critic.weight) == (state.step, -state.step), state
    return state


def disturbed(root: Path, fault: Fault, loss: str) -> bool:
    """Save under a fault; whether it hit. Afterwards the old state or the new one is there, and saving works."""
    directory = root / "checkpoints"
    shutil.rmtree(directory, ignore_errors=True)
    save(directory, OLD)
    after = under(fault, directory, lambda: saving(directory))
    if after.code == 0:
        assert restored(directory) == NEW
        return False
    assert after.code == (FAILED if fault.mode == FAIL else CRASHED), (fault, after.code)
    LOSSES[loss](after.done)
    assert restored(directory) in (OLD, NEW), (fault, loss, after.done[-3:])
    save(directory, NEW)
    assert restored(directory) == NEW and [path.name for path in directory.iterdir()] == ["step_000004"], fault
    return True


def main() -> None:
    root = Path(sys.argv[1])
    ways = [
        *((EXIT, 0, loss) for loss in LOSSES), (HALF, 0, "nothing"), (HALF, 0, "data"),
        *((FAIL, number, "nothing") for number in (errno.ENOSPC, errno.EIO)),
    ]
    for mode, number, loss in ways:
        hit, which = 0, 1
        # A deletion that fails may be overlooked, and the save succeed in spite of it: go on to the last operation.
        while which <= 200:
            hit += disturbed(root, Fault(mode, which, number), loss)
            which += 1
            if which > hit + 40:
                break
        print(mode, number, loss, hit)


if __name__ == "__main__":
    main()
