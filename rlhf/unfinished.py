"""A run that was interrupted belongs to its config: another config must not go on from it, nor silently discard it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf import artifacts
from rlhf.config import read_yaml
from rlhf.errors import ConfigError
from rlhf.stage import BORNE, ELSEWHERE, StageConfig, identity_of

CONFIG = "config.yaml"
_STATE = ("checkpoints/[!.]*", "ray_train/*/checkpoint_*", "rollouts/step_*.parquet")
# What does not make a run another one, besides where it is written and made: over how many ranks and in which portions
# it is computed, what is kept of it, how long is waited, and what is borne: one that stopped at what is not finite has
# left nothing out until then.
_ALIKE = (
    "deadline_s", "replacement_s", "not_finite", "keep_checkpoints", "best_checkpoint", "transcripts_every",
    "transcripts_rows",
)
_PORTIONS = ("micro_batch_tokens", "graph_tokens", "gradient_checkpointing")


def has_state(work: Path) -> bool:
    """Whether a run has left in `work` what it could go on from."""
    return any(any(work.glob(pattern)) for pattern in _STATE)


def problem(work: Path, config: StageConfig) -> str | None:
    """Why `config` cannot use `work`: an unfinished run of another config has its state there. None: it can."""
    if not has_state(work):
        return None
    theirs = _config_of(work)
    if theirs is None or _is_published(config.output, theirs):
        return None
    different = sorted(differences(config.identity(), theirs))
    return refusal(work, different) if different else None


def refusal(work: Path, different: list[str]) -> str:
    """The sentence that names the directory, the keys, and what to do."""
    return (
        f"{work}: holds an unfinished run that differs in {', '.join(different[:5])}; give this run another output, or "
        f"delete the directory to start over"
    )


def differences(mine: Any, theirs: Any, prefix: str = "") -> Iterator[str]:
    """Dotted keys under which two mappings differ."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key in {*mine, *theirs}:
            yield from differences(mine.get(key), theirs.get(key), f"{prefix}.{key}" if prefix else key)
    elif mine != theirs and not _is_alike(prefix.split(".")):
        yield prefix


def _is_alike(key: Sequence[str]) -> bool:
    """Whether a run stays the same (to 1e-6) when this changes."""
    if key[0] == "training":  # there, portions belong to the job
        return key[1:2] != [] and key[1] in BORNE
    of_role = key[3:] if key[:2] == ["reward", "parts"] else key[1:]
    if key[0] in _ALIKE:
        return True
    return bool(of_role) and (of_role[0] == "resources" or of_role[-1] in _PORTIONS)


def _config_of(work: Path) -> dict[str, Any] | None:
    try:
        raw = read_yaml(work / CONFIG)
    except ConfigError:
        return None
    return {key: value for key, value in raw.items() if key not in ELSEWHERE}


def _is_published(output: Path, config: dict[str, Any]) -> bool:
    """Whether the run of that config has come to its end."""
    if not (output / artifacts.MANIFEST).is_file():
        return False
    return artifacts.load(output).manifest.config_hash == artifacts.digest(identity_of(config))
