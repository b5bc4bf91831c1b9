"""A checkpoint on a disk that is really too small."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from rlhf.batch import from_completions
from rlhf.errors import NumericError, RunError
from rlhf.not_finite import StopAtOnce
from rlhf.ppo.finite_rows import FiniteRows
from rlhf.ppo.loop import LoopState
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.faults.small_disk import small_disk
from tests.ppo import fakes

MIB = 2**20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 3) as mounted:
        yield mounted


def save(directory: Path, step: int, size: int) -> None:
    """A checkpoint whose policy has `size` bytes."""
    roles = fakes.roles()

    def write(target: Path) -> fakes.Pending:
        def work() -> None:
            target.mkdir(parents=True)
            (target / "weights").write_bytes(bytes(size))

        return fakes.Pending([], "save", work)

    roles.policy.save = write
    kept = DirectoryCheckpoints(directory, Keeping(2), lambda said: None)
    kept.save(roles, LoopState(step, 0.1), {})
    kept.finish()


def test_a_disk_that_fills_up_costs_that_checkpoint_alone(disk: Path) -> None:
    """First nothing is known of the size; then it is known beforehand; and with room again it works."""
    directory = disk / "checkpoints"
    with pytest.raises(RunError, match=r"it needs more than 3\.0 MiB, and 3\.0 MiB are free \(there is none yet\)"):
        save(directory, 1, 4 * MIB)
    save(directory, 2, MIB)
    (disk / "other").write_bytes(bytes(MIB + MIB // 2))
    said = r"it needs 1\.0 MiB as the last one took, and 0\.5 MiB are free \(step_000002 is untouched\); free"
    with pytest.raises(RunError, match=said):
        save(directory, 4, MIB)
    assert [path.name for path in directory.iterdir()] == ["step_000002"]
    (disk / "other").unlink()
    save(directory, 4, MIB)
    assert sorted(path.name for path in directory.iterdir()) == ["step_000002", "step_000004"]


def test_a_bad_batch_that_finds_no_room_hides_nothing(disk: Path) -> None:
    rows = FiniteRows(StopAtOnce(), disk / "failures")
    (disk / "other").write_bytes(bytes(3 * MIB - 8192))
    tokens = [[1] * 8192] * 4
    rollout = from_completions([[5]] * 4, tokens, [[0.0] * 8192] * 4, [True] * 4, 0, 0)
    said = r"2 of 4 rows of its scores are not finite; the batch could not be saved as .* \(.*No space left.*\); look"
    with pytest.raises(NumericError, match=said):
        rows.bad(2, "reward", rollout, torch.tensor([0.0, torch.nan, torch.inf, 1.0]))
