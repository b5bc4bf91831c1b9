"""The worker's side of reporting: what the trainer logs goes to the driver, and checkpoints go to Ray Train."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import ray.train
from transformers import TrainerCallback

from rlhf.training.disk import room_for
from rlhf.training.handing_over import handing_over
from rlhf.training.jobs import TrainJob
from rlhf.training.shares import seal_share

_TRAINING = {"loss", "grad_norm", "learning_rate", "accuracy", "margin"}


class RayReport(TrainerCallback):
    """Reports each logged row to Ray Train, and after a validation the checkpoint that was saved at that step.

    Every worker reports equally often, as Ray Train requires. Rank 0 writes its row to a file before that, so that
    there is no checkpoint of a step whose row could be missing.
    """

    def __init__(self, job: TrainJob) -> None:
        self._rows, self._hand_over = job.reports, handing_over(job.attempt)
        self._row: dict[str, float] = {}

    def on_log(self, args, state, control, logs: dict[str, float], **_: Any) -> None:
        if "loss" not in logs:  # the summary at the end of training
            return
        kept = {key: float(value) for key, value in logs.items() if key in _TRAINING}
        self._row = {"step": state.global_step, "epoch": float(state.epoch), **kept}
        if not control.should_save:
            self._report(None)

    def on_evaluate(self, args, state, control, metrics: dict[str, float], **_: Any) -> None:
        if self._row.get("step") != state.global_step:
            self._row = {"step": state.global_step, "epoch": float(state.epoch)}
        self._row |= {f"validation_{key.removeprefix('eval_')}": value for key, value in metrics.items()}

    def on_save(self, args, state, control, **_: Any) -> None:
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        worker = ray.train.get_context()
        seal_share(directory, worker.get_world_rank(), worker.get_world_size())
        self._report(ray.train.Checkpoint.from_directory(directory))
        shutil.rmtree(directory)

    def _report(self, checkpoint: ray.train.Checkpoint | None) -> None:
        if ray.train.get_context().get_world_rank() == 0:
            with room_for("a line of metrics", self._rows.parent), open(self._rows, "a", encoding="utf-8") as stream:
                stream.write(json.dumps(self._row) + "\n")
                if checkpoint is not None:
                    stream.flush()
                    os.fsync(stream.fileno())
        ray.train.report(self._row, checkpoint=checkpoint, checkpoint_upload_fn=self._hand_over)
        self._row = {}
