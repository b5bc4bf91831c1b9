"""A checkpoint is saved or handed over, or an artifact published, while the process ends, the machine loses its power,
or the disk fails, at any file operation."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.everywhere import WAYS, Row
from tests.faults.faults import HALF, build, run_with

SOME, ALL = 3, 1_000_000  # of the writes amid others to the same file
RECOVERY = Path(__file__).resolve().parents[2] / "docs" / "recovery.md"


@pytest.fixture
def directory() -> Iterator[Path]:
    """In memory, where it may be: what a machine loses is reckoned by the shim's journal, and no disk is waited for."""
    with TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as made:
        yield Path(made)


def disturbed(script: str, directory: Path, interior: int, *works: str) -> dict[str, int]:
    """Disturb pieces of work in every way at every operation, or many: how many operations each has."""
    said = run_with(build(directory), Path(__file__).with_name(script), str(directory), str(interior), *works)
    rows = [Row(**json.loads(line)) for line in said.splitlines()]
    assert [(row.work, row.way) for row in rows] == [(work, way.name) for work in works for way in WAYS]
    for row, way in zip(rows, WAYS * len(works), strict=True):
        concerned = row.writes if way.mode == HALF else row.operations
        assert row.tried == concerned - row.left_out and (row.left_out == 0 or interior < ALL), row
        assert row.hit == row.tried or way.errno, row
    return {row.work: row.operations for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("interior", [SOME, pytest.param(ALL, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize(("work", "told"), [
    ("beside an older one", "a crash before each of the {} file operations of a save"),
    ("the first of a run", "and of the {} of the first one of a run"),  # no state is there then, or the new one
], ids=["beside", "first"])
def test_a_save_leaves_the_old_state_or_the_new_one(directory: Path, interior: int, work: str, told: str) -> None:
    counted = disturbed("save_checkpoint.py", directory, interior, work)
    assert told.format(counted[work]) in RECOVERY.read_text()


@pytest.mark.slow
def test_a_hand_over_to_ray_train_leaves_the_old_list_or_the_new_one(directory: Path) -> None:
    """And every checkpoint that it names is whole."""
    counted = disturbed("hand_over_checkpoint.py", directory, ALL, "the first of a job", "after three")
    assert f"each of the {counted['after three']} file operations of a command's way" in RECOVERY.read_text()


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("work", ["after a damaged one", "after a list that was cut short"])
def test_so_does_one_after_another_crash(directory: Path, work: str) -> None:
    disturbed("hand_over_checkpoint.py", directory, ALL, work)


def test_an_artifact_is_whole_or_is_not_there(directory: Path) -> None:
    replacing = "in the place of an older one"
    counted = disturbed("publish_artifact.py", directory, ALL, replacing, "the first")
    assert f"each of the {counted[replacing]} file operations of a publication" in RECOVERY.read_text()
