"""What one attempt at a Ray Train job leaves to the next.

A driver may die while its workers, and Ray Train's controller, live on for seconds and write. So each attempt works in
a directory of its own name, and takes over the one before it by a rename: what is written late goes to the old name,
which nobody reads any more.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.train import UserCallback

from rlhf.artifacts import make_durably
from rlhf.training import snapshot
from rlhf.training.passing_over import pass_over_damaged

_DELETED = ".deleted"


def begin(storage: Path, key: str, note: Callable[[str], None] = print) -> Path:
    """The directory of a new attempt at job `key` below `storage`, with all that earlier ones have left. It is there to
    stay: what is handed over to it and brought to disk survives a crash of the machine.

    Damaged checkpoints are passed over, with a note. Raises RunError when there are some and none is sound.
    """
    directories = attempts(storage, key)
    newest = directories[-1] if directories else None
    mine = storage / f"{key}.{_number(newest) + 1 if newest else 1:04d}"
    if newest:
        newest.rename(mine)
        snapshot.mend(mine)
        pass_over_damaged(mine, note)
        _remove_unlisted(mine)
    else:
        make_durably(mine)
    for late in directories[:-1]:
        shutil.rmtree(late, ignore_errors=True)
    return mine


def attempts(storage: Path, key: str) -> list[Path]:
    """The directories of a job's attempts; the last one counts, others were written to late."""
    found = (each for each in storage.glob(f"{key}.*/") if each.name.removeprefix(f"{key}.").isdecimal())
    return sorted(found, key=_number)


def restarts(directory: Path) -> int:
    """How many attempts at the job there were before the one whose directory this is."""
    return _number(directory) - 1


def key_of(directory: Path) -> str:
    """The job whose attempt a directory is; of one that earlier versions made, which had no number, too."""
    return directory.name.partition(".")[0]


def _number(directory: Path) -> int:
    return int(directory.name.rpartition(".")[2])


class KeepSnapshot(UserCallback):
    """After each checkpoint: Ray Train's list is copied, and checkpoints that need not stay are deleted.

    The copy names all that stay, so whichever of the two lists a kill leaves whole, what is needed is there.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        if checkpoint is None or not (self._directory / snapshot.NAME).exists():
            return
        snapshot.copy(self._directory)
        _prune(self._directory)


def _prune(directory: Path) -> None:
    """Delete what need not stay. It loses its name first: one half deleted is never taken for a checkpoint."""
    listed = snapshot.saved(directory)
    stay = snapshot.staying(listed)
    for old in listed:
        if old not in stay and (directory / old.name).is_dir():
            doomed = directory / f".{old.name}{_DELETED}"
            (directory / old.name).rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def _remove_unlisted(directory: Path) -> None:
    """Checkpoints that a kill left half written, or half deleted, are in no list, so nothing else would remove them."""
    listed = {saved.name for saved in snapshot.saved(directory)}
    left = [path for path in directory.glob("checkpoint_*/") if path.name not in listed]
    for path in [*left, *directory.glob(f".checkpoint_*{_DELETED}")]:
        shutil.rmtree(path, ignore_errors=True)
