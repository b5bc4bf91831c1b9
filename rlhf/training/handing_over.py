"""How a checkpoint gets from a worker's own directory to where the run keeps it: it is on disk before it is listed."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from ray.train import Checkpoint

from rlhf.artifacts import sync
from rlhf.errors import RunError
from rlhf.training.disk import room_for, size_of

_CHUNK = 16 * 2**20


def handing_over(attempt: Path) -> Callable[[Checkpoint, str], Checkpoint]:
    """What `ray.train.report` calls to bring a worker's part below `attempt`, into a directory that all parts share."""

    def hand_over(checkpoint: Checkpoint, name: str) -> Checkpoint:
        source, target = Path(checkpoint.path), attempt / name
        if not attempt.is_dir():  # on this worker's node
            raise RunError(
                f"{attempt}: not there on the node of every worker; give an output on storage that every node shares, "
                f"by its absolute path"
            )
        with room_for("a checkpoint", attempt, size_of(source)):
            try:
                copy_durably(source, target)
            except OSError:
                _take_back(source, target)
                raise
            sync(attempt)
        return Checkpoint.from_directory(target)

    return hand_over


def copy_durably(source: Path, target: Path) -> None:
    """Copy all below a directory into another, which may have files already, and bring it to disk with its names."""
    target.mkdir(exist_ok=True)
    for path in sorted(source.iterdir()):
        if path.is_dir():
            copy_durably(path, target / path.name)
        else:
            _copy_file(path, target / path.name)
    sync(target)


def _copy_file(source: Path, target: Path) -> None:
    """Visible by a rename: several workers may have a file of the same name."""
    draft = target.with_name(f".{target.name}.{secrets.token_hex(4)}")
    try:
        with open(source, "rb") as whole, open(draft, "wb") as stream:
            shutil.copyfileobj(whole, stream, _CHUNK)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _take_back(source: Path, target: Path) -> None:
    """Delete what was copied; the other workers' files stay, who may still write."""
    for path in source.rglob("*"):
        if not path.is_dir():
            (target / path.relative_to(source)).unlink(missing_ok=True)
