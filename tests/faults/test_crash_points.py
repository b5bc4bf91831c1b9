"""A checkpoint is saved, or an artifact published, while the process ends, or the disk fails, at any file operation."""

from __future__ import annotations

from pathlib import Path

from tests.faults.faults import build, run_with


def test_a_save_that_is_disturbed_anywhere_leaves_the_old_or_the_new_state(tmp_path: Path) -> None:
    said = run_with(build(tmp_path), Path(__file__).with_name("save_checkpoint.py"), str(tmp_path))
    rows = [line.split() for line in said.splitlines()]
    assert len(rows) == 9
    assert all(int(row[-1]) >= 15 for row in rows), said  # so many operations were hit, one run each


def test_an_artifact_is_whole_when_power_is_lost_at_any_point_of_its_publication(tmp_path: Path) -> None:
    """Or is not there."""
    said = run_with(build(tmp_path), Path(__file__).with_name("publish_artifact.py"), str(tmp_path))
    rows = [line.split() for line in said.splitlines()]
    assert [row[0] for row in rows] == ["data", "names"]
    assert all(int(row[-1]) >= 15 for row in rows), said
