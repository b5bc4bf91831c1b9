"""A checkpoint of Ray Train is read only when it is, byte for byte, what the workers of the run have listed."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlhf.artifacts import digest, write_json
from rlhf.errors import RunError
from rlhf.sound import SoundDirectory
from rlhf.training.shares import damage, require_as_sealed, seal_share


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """What two workers wrote, merged as Ray Train does it; both have written `latest`, each in its own words."""
    merged = tmp_path / "run" / "checkpoint_1"
    for rank in range(2):
        own = tmp_path / f"worker{rank}"
        (own / "state").mkdir(parents=True)
        (own / "state" / f"rank_{rank}_optim_states.pt").write_bytes(bytes([rank]) * 100)
        (own / "latest").write_text(("by one", "of another")[rank])
        seal_share(own, rank, 2)
        shutil.copytree(own, merged, dirs_exist_ok=True)
    return merged


def test_what_was_listed_is_sound(checkpoint: Path) -> None:
    assert damage(checkpoint) is None
    assert require_as_sealed(checkpoint) == SoundDirectory(checkpoint)


def test_one_changed_bit_in_any_byte_of_any_file_is_seen(checkpoint: Path) -> None:
    files = [path for path in checkpoint.rglob("*") if path.is_file()]
    assert len(files) == 5
    for path in files:
        content = path.read_bytes()
        for place in range(len(content)):
            for bit in (0, 5):  # the last one, and upper case
                path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
                assert damage(checkpoint) is not None, (path.name, place, bit)
        path.write_bytes(content)
    assert damage(checkpoint) is None


def test_what_an_earlier_version_listed_without_a_hash_of_the_list_is_sound(checkpoint: Path) -> None:
    for path in checkpoint.glob("share_*"):
        content = json.loads(path.read_text())
        write_json(path, {"ranks": content["ranks"], "files": content["files"]})
    assert damage(checkpoint) is None


def link_elsewhere(checkpoint: Path) -> None:
    """The same bytes, but somebody else's to change."""
    state = checkpoint / "state"
    shutil.move(state, checkpoint.parent / "state")
    os.symlink(checkpoint.parent / "state", state)


def list_what_lies_outside(checkpoint: Path) -> None:
    path = checkpoint / "share_00000.json"
    content = json.loads(path.read_text())
    content["files"]["../outside.pt"] = content["files"].pop("state/rank_0_optim_states.pt")
    shutil.move(checkpoint / "state" / "rank_0_optim_states.pt", checkpoint.parent / "outside.pt")
    content["sha256"] = digest({"ranks": content["ranks"], "files": content["files"]})
    write_json(path, content)


def link_a_file(checkpoint: Path) -> None:
    file = checkpoint / "state" / "rank_1_optim_states.pt"
    shutil.move(file, checkpoint.parent / "elsewhere.pt")
    os.symlink(checkpoint.parent / "elsewhere.pt", file)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda at: (at / "state" / "rank_1_optim_states.pt").write_bytes(b"\1" * 99 + b"\2"), "states.pt has changed"),
        (lambda at: (at / "state" / "rank_0_optim_states.pt").unlink(), "rank_0_optim_states.pt is missing"),
        (lambda at: (at / "state" / "more.pt").write_bytes(b""), "state/more.pt was not there when it was written"),
        (lambda at: (at / "share_00001.json").unlink(), "1 of 2 workers have listed"),
        (lambda at: [path.unlink() for path in at.glob("share_*")], "0 of 1 workers have listed"),
        (lambda at: (at / "share_00001.json").write_text("[]"), "a list of a worker's files cannot be read"),
        (link_elsewhere, "state was not there when it was written"),
        (list_what_lies_outside, "outside.pt is missing"),
        (link_a_file, "rank_1_optim_states.pt has changed"),
    ],
)
def test_what_was_not_is_refused(checkpoint: Path, harm: Callable[[Path], object], said: str) -> None:
    harm(checkpoint)
    with pytest.raises(RunError, match=rf"checkpoint_1 is damaged: .*{said}.*; the same command goes on "):
        require_as_sealed(checkpoint)
