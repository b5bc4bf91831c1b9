"""Checkpoints of a PPO run: every role and the loop's own state in one directory, visible by one rename."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path

from rlhf.artifacts import replace_directory, sync_directory, write_json
from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState, Roles

COMPLETE = "checkpoint.json"


class DirectoryCheckpoints:
    """`step_000020/{policy,critic,rollouts,checkpoint.json}` below one directory; the newest `keep` stay."""

    def __init__(self, directory: Path, keep: int) -> None:
        self.directory = directory
        self.keep = keep

    def published(self) -> list[Path]:
        """Checkpoints that were renamed into place, oldest first."""
        return sorted(self.directory.glob("step_*"))

    def complete(self) -> list[Path]:
        """Those of them that are still whole: a machine that lost power may have cut files short."""
        return [path for path in self.published() if _is_whole(path)]

    def restore(self, roles: Roles) -> LoopState | None:
        """Load the newest whole checkpoint into policy and critic; None where none was ever made."""
        found = self.complete()
        if not found and self.published():
            raise RunError(
                f"{self.directory}: every checkpoint lacks files or has some that were cut short; restore them, or "
                f"delete the directory to start over"
            )
        if not found:
            return None
        newest = found[-1]
        content = json.loads((newest / COMPLETE).read_text())
        loading = [roles.policy.load(newest / "policy"), roles.critic.load(newest / "critic")]
        for handle in loading:
            handle.get()
        roles.collector.load(newest / "rollouts")
        return LoopState(**content["state"])

    def save(self, roles: Roles, state: LoopState) -> None:
        """Write all roles beside the old checkpoints, then rename into place."""
        target = self.directory / f"step_{state.step:06d}"
        draft = self.directory / f".{target.name}.draft"
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        saving = [
            roles.policy.save(draft / "policy"), roles.critic.save(draft / "critic"),
            roles.collector.save(draft / "rollouts"),
        ]
        for handle in saving:
            handle.get()
        files = {str(p.relative_to(draft)): p.stat().st_size for p in sorted(draft.rglob("*")) if p.is_file()}
        if not files:
            raise RunError(
                f"{draft.absolute()}: the learners' files are not here; give an output on storage that every "
                f"node shares, by its absolute path"
            )
        write_json(draft / COMPLETE, {"state": asdict(state), "files": files})
        sync_directory(draft)
        replace_directory(draft, target)
        oldest_kept = self.complete()[-self.keep :][0]
        for old in self.published():
            if old < oldest_kept:
                shutil.rmtree(old)


def _is_whole(checkpoint: Path) -> bool:
    """Whether every file that was written is there in its full size. The JSON that lists them was written last."""
    if not (checkpoint / COMPLETE).is_file():
        return False
    files = json.loads((checkpoint / COMPLETE).read_text())["files"]
    return all(_size(checkpoint / name) == size for name, size in files.items())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
