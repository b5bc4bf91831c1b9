"""Ray Train's own keeper of a job's checkpoints, in this process."""

from __future__ import annotations

from pathlib import Path

from ray.train import Checkpoint, CheckpointConfig
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.storage import StorageContext
from ray.train.v2._internal.execution.training_report import _TrainingReport


def keeper(attempt: Path) -> CheckpointManager:
    """What the controller of a job makes of the list below an attempt's directory, and writes there."""
    config = CheckpointConfig(checkpoint_score_attribute="validation_loss", checkpoint_score_order="min")
    return CheckpointManager(config, StorageContext(str(attempt.parent), attempt.name))


def report_of(checkpoint: Checkpoint, loss: float, step: int = 10) -> _TrainingReport:
    """What the workers of a job have reported."""
    return _TrainingReport(checkpoint=checkpoint, metrics={"step": step, "validation_loss": loss}, validation=False)


def resumed(attempt: Path) -> tuple[str, list[str]]:
    """Which one Ray Train goes on from, and which it may name the best."""
    kept = keeper(attempt)
    found = [Path(each.checkpoint.path).name for each in kept.best_checkpoint_results]
    return Path(kept.latest_checkpoint_result.checkpoint.path).name, found
