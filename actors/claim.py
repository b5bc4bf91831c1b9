"""Whose work directory it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from rlhf import unfinished
from rlhf.artifacts import sync, write_json
from rlhf.context import RunContext
from rlhf.errors import RunError
from rlhf.lock import LOCK
from rlhf.ppo.config import PPOConfig

CHECKPOINTS, CLAIM = "checkpoints", "claim.json"


def claim(context: RunContext, config: PPOConfig) -> None:
    """Bind the work directory to this config and these inputs.

    What a finished run of another config left there is discarded: its result is published. An unfinished run of
    another config is a RunError once it has a checkpoint or a rollout, for going on from that would mix the two.
    """
    path = context.work / CLAIM
    mine = {"config": config.model_dump(mode="json", exclude={"output", "cluster"}), "inputs": dict(context.inputs)}
    theirs = _read_claim(path) if path.is_file() else mine
    different = sorted([
        *unfinished.differences(mine["config"], theirs["config"]),
        *unfinished.differences(mine["inputs"], theirs["inputs"], "inputs"),
    ])
    if different and theirs.get("finished"):
        discard(context.work)
    elif different and unfinished.has_state(context.work):
        raise RunError(unfinished.refusal(context.work, different))
    elif different:
        discard(context.work)
    context.work.mkdir(parents=True, exist_ok=True)
    if different or not path.is_file():
        write_json(path, mine)
    context.taken()


def _read_claim(path: Path) -> dict:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found["config"], dict) and isinstance(found["inputs"], dict):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise RunError(f"{path}: damaged, so it is not known whose run this is; delete {path.parent}")


def discard(work: Path) -> None:
    """Empty a work directory, but for the lock, which is this run's, and the resolved config, which is to be replaced.

    Whose the rest was goes last: whenever this is interrupted, what is left is still known to be another run's.
    """
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in (unfinished.CONFIG, LOCK, CLAIM):
            path.unlink()
    sync(work)
    (work / CLAIM).unlink(missing_ok=True)


def release(work: Path) -> None:
    """The run is over and its result published."""
    path = work / CLAIM
    write_json(path, {**_read_claim(path), "finished": True})
