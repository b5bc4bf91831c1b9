"""A checkpoint is saved while the process ends, or the disk fails, at every single file operation."""

from __future__ import annotations

from pathlib import Path

from tests.faults.faults import build, run_with


def test_a_save_that_is_disturbed_anywhere_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    said = run_with(build(tmp_path), Path(__file__).with_name("save_checkpoint.py"), str(tmp_path))
    rows = [line.split() for line in said.splitlines()]
    assert len(rows) == 7
    assert all(int(row[-1]) >= 15 for row in rows), said  # so many operations were hit, one run each
