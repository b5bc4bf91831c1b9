"""Checkpoints of a PPO run: every role and the loop's own state in one directory, visible by one rename."""

from __future__ import annotations

import errno
import math
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlhf.artifacts import make_durably, sync
from rlhf.errors import RunError
from rlhf.full_disk import where_full
from rlhf.ppo.loop import LoopState, Roles
from rlhf.sound import SoundDirectory
from rlhf.training.disk import mib, size_of
from rlhf.training.seal import DAMAGED, contents, foreign, seal, shallow_damage, verified

_STEP = re.compile(r"step_\d{6,}")


@dataclass(frozen=True)
class Keeping:
    """Which checkpoints stay: the newest, and the one with the highest value of a metric; None: no such one."""

    newest: int
    best_by: str | None = None


def published(directory: Path) -> list[Path]:
    """Checkpoints that were renamed into place, oldest first."""
    found = (path for path in directory.glob("step_*") if _STEP.fullmatch(path.name) and path.is_dir())
    return sorted(found, key=step_of)


class DirectoryCheckpoints:
    """`step_000020/{policy,critic,rollouts,checkpoint.json,checkpoint.sha256}` below one directory."""

    def __init__(self, directory: Path, keeping: Keeping, note: Callable[[str], None] = print) -> None:
        self.directory = directory
        self.keeping = keeping
        self.note = note
        self._attempt = secrets.token_hex(4)  # in the names of drafts: a rank that was given up may write on into its
        self._beside = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None

    def published(self) -> list[Path]:
        """Checkpoints that were renamed into place, oldest first."""
        return published(self.directory)

    def _damaged(self) -> Iterator[Path]:
        """Those that were passed over, and have lost their name."""
        return (path for path in self.directory.glob(f"{DAMAGED}step_*") if _STEP.fullmatch(path.name[len(DAMAGED):]))

    def restore(self, roles: Roles) -> LoopState | None:
        """Load the newest checkpoint that is as it was written; None where none was ever made.

        One that is not is named, and the one before it is taken. Nothing of it is read but to be hashed. Raises
        RunError when there are some and none is sound, for then it may be the disk, and nothing is renamed; and for one
        that another version of this code has written.
        """
        for left_over in self.directory.glob(".step_*"):
            shutil.rmtree(left_over, ignore_errors=True)
        damaged: dict[Path, str] = {}
        for checkpoint in reversed(self.published()):
            found = verified(checkpoint)
            if isinstance(found, SoundDirectory):
                _require_readable(checkpoint)
                self._pass_over(damaged)
                return self._load(found, roles)
            damaged[checkpoint] = found
        if damaged or any(self._damaged()):
            wrong = "".join(f" ({path.name}: {found})" for path, found in [*damaged.items()][:1])
            raise RunError(
                f"{self.directory}: every checkpoint is damaged{wrong}; restore one from a copy, or delete the "
                f"directory to start over"
            )
        return None

    def _pass_over(self, damaged: Mapping[Path, str]) -> None:
        """Their names are for those that can be gone on from."""
        for checkpoint, found in damaged.items():
            aside = checkpoint.with_name(f"{DAMAGED}{checkpoint.name}")
            _remove(aside)
            checkpoint.rename(aside)
            self.note(f"{checkpoint} is damaged: {found}; it is passed over, and now called {aside.name}")

    def _load(self, checkpoint: SoundDirectory, roles: Roles) -> LoopState:
        loading = [roles.policy.load(checkpoint / "policy"), roles.critic.load(checkpoint / "critic")]
        for handle in loading:
            handle.get()
        roles.collector.load(checkpoint.path / "rollouts")
        return LoopState(**contents(checkpoint.path)["state"])

    def save(self, roles: Roles, state: LoopState, numbers: Mapping[str, float]) -> None:
        """Let all roles write beside the old checkpoints; hashing, fsync and the rename then happen beside the run.

        `numbers` are the metrics of the step. Raises RunError when there is no room; what went wrong with the
        checkpoint before is raised by `check`, and here at the latest.
        """
        self.finish()
        target = self.directory / f"step_{state.step:06d}"
        draft = self.directory / f".{target.name}.{self._attempt}.draft"
        with self._explained(draft):
            _remove(draft)
            make_durably(self.directory)
            draft.mkdir()
            self._require_room()
            saving = [
                roles.policy.save(draft / "policy"), roles.critic.save(draft / "critic"),
                roles.collector.save(draft / "rollouts"),
            ]
            for handle in saving:
                handle.get()
        kept = {name: number for name, number in numbers.items() if math.isfinite(number)}
        self._pending = self._beside.submit(self._publish, draft, target, {"state": asdict(state), "numbers": kept})

    def check(self) -> None:
        """Raises what went wrong with the checkpoint under way, if it has come to its end."""
        if self._pending is not None and self._pending.done():
            self.finish()

    def finish(self) -> None:
        """Returns when the checkpoint under way is in its place. Raises what went wrong with it."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def close(self) -> None:
        """Let the checkpoint under way come to its end, whatever it is."""
        self._beside.shutdown(wait=True)

    def _publish(self, draft: Path, target: Path, content: Mapping[str, Any]) -> None:
        with self._explained(draft):
            seal(draft, content)
            _remove(target)  # one that was damaged: else the run would have gone on from it
            os.rename(draft, target)
            sync(self.directory)
            self._prune()

    def _prune(self) -> None:
        """Delete what need not stay. Damaged ones do not count, and go with those that are older than what stays."""
        sound = [path for path in self.published() if shallow_damage(path) is None]
        newest = sound[-self.keeping.newest :]
        stay = {*newest, self.best(sound)}
        for old in (*self.published(), *self._damaged()):
            if step_of(old) < step_of(newest[0]) and old not in stay:
                _remove(old)

    def best(self, sound: list[Path]) -> Path | None:
        """The checkpoint whose step had the highest value of the metric; the later one of equals."""
        name = self.keeping.best_by
        found = {path: contents(path)["numbers"].get(name) for path in sound if foreign(path) is None}
        scored = {path: number for path, number in found.items() if number is not None}
        return max(scored, key=lambda path: (scored[path], step_of(path))) if scored else None

    def _require_room(self) -> None:
        """Raises OSError before anything is written that would not fit: as much as the newest checkpoint took."""
        published = self.published()
        if not published:
            return
        needed, free = size_of(published[-1]), shutil.disk_usage(self.directory).free
        if free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    @contextmanager
    def _explained(self, draft: Path) -> Iterator[None]:
        """A full disk costs no checkpoint but this one, and is said in words."""
        try:
            yield
        except Exception as error:
            if where_full(error) is None:
                raise
            wrote = size_of(draft)
            _remove(draft)
            free = shutil.disk_usage(self.directory).free
            published = self.published()
            needed = f"{mib(size_of(published[-1]))} as the last one took" if published else f"more than {mib(wrote)}"
            stays = f"{published[-1].name} is untouched" if published else "there is none yet"
            raise RunError(
                f"{self.directory}: no room for a checkpoint: it needs {needed}, and {mib(free)} are free ({stays}); "
                f"free some, or move the run to a larger disk; then run the same command"
            ) from error


def step_of(checkpoint: Path) -> int:
    """The step after which a checkpoint was made. By number: beyond a million steps, names no longer sort."""
    return int(checkpoint.name.removeprefix(DAMAGED).removeprefix("step_"))


def _require_readable(checkpoint: Path) -> None:
    wrong = foreign(checkpoint)
    if wrong is not None:
        raise RunError(
            f"{checkpoint} {wrong}; go on with the version of rlhf that wrote it, or delete "
            f"{checkpoint.parent} to start over"
        )


def _remove(directory: Path) -> None:
    """Delete a directory so that one half deleted is never taken for a checkpoint: it loses its name first."""
    doomed = directory.with_name(f".{directory.name.lstrip('.')}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    if directory.exists():
        os.rename(directory, doomed)
        shutil.rmtree(doomed, ignore_errors=True)
