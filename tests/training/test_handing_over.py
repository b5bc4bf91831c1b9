"""A worker's part of a checkpoint is on disk, files and directories, before anything names it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.train import Checkpoint

from rlhf.errors import RunError
from rlhf.training.handing_over import handing_over
from rlhf.training.shares import damage, seal_share
from tests.faults.small_disk import small_disk


@pytest.fixture
def attempt(tmp_path: Path) -> Path:
    directory = tmp_path / "abc.0001"
    directory.mkdir()
    return directory


def part(tmp_path: Path, rank: int, size: int = 100) -> Checkpoint:
    own = tmp_path / f"worker{rank}"
    (own / "state").mkdir(parents=True)
    (own / "state" / f"rank_{rank}.pt").write_bytes(bytes([rank]) * size)
    (own / "latest").write_text(f"by {rank}")
    seal_share(own, rank, 2)
    return Checkpoint.from_directory(own)


def test_the_parts_of_all_workers_become_one_checkpoint(tmp_path: Path, attempt: Path) -> None:
    for rank in (0, 1):
        handed = handing_over(attempt)(part(tmp_path, rank), "checkpoint_1")
        assert handed.path == str(attempt / "checkpoint_1")
    assert damage(attempt / "checkpoint_1") is None
    assert sorted(path.name for path in (attempt / "checkpoint_1").iterdir()) == [
        "latest", "share_00000.json", "share_00001.json", "state",
    ]


def test_every_file_and_directory_is_brought_to_disk(tmp_path: Path, attempt: Path, monkeypatch) -> None:
    """Each file before its directory, and that of the attempt, which holds the name, last."""
    synced, whole = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append(os.stat(descriptor).st_ino)
        whole(descriptor)

    given = part(tmp_path, 0)
    monkeypatch.setattr(os, "fsync", fsync)
    target = Path(handing_over(attempt)(given, "checkpoint_1").path)
    order = {path: synced.index(path.stat().st_ino) for path in (attempt, target, *target.rglob("*"))}
    for path in order.keys() - {attempt}:
        assert order[path] < order[path.parent]


def test_a_node_that_does_not_see_the_directory_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="gone: not there on the node of every worker; give an output on storage that"):
        handing_over(tmp_path / "gone")(part(tmp_path, 0), "checkpoint_1")
    assert not (tmp_path / "gone").exists()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "small", 1) as mounted:
        yield mounted


def test_a_disk_that_is_full_says_what_is_needed_and_keeps_nothing(tmp_path: Path, disk: Path) -> None:
    hand_over = handing_over(disk)
    hand_over(part(tmp_path, 0, 2**18), "checkpoint_1")
    with pytest.raises(RunError, match=r"small: no room for a checkpoint: it needs 2\.0 MiB, and 0\.7 MiB are free; "):
        hand_over(part(tmp_path, 1, 2**21), "checkpoint_1")
    files = {path.name for path in disk.rglob("*") if path.is_file()}
    assert files <= {"rank_0.pt", "latest", "share_00000.json"} and "rank_0.pt" in files
