"""The worker's side of reporting: what the trainer logs goes to the driver, and checkpoints go to Ray Train."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray.train
from transformers import TrainerCallback

from rlhf.training.disk import room_for
from rlhf.training.handing_over import handing_over
from rlhf.training.jobs import TrainJob
from rlhf.training.shares import seal_share
from rlhf.training.snapshot import WORST

_TRAINING = {"loss", "grad_norm", "learning_rate", "accuracy", "margin", "left_out"}


class RayReport(TrainerCallback):
    """Reports each logged row to Ray Train, and each checkpoint with the row of its step.

    Every worker reports equally often, as Ray Train requires. Rank 0 writes its row to a file before that, so that
    there is no checkpoint of a step whose row could be missing. A checkpoint between two rows has none to write.
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
            self._report(self._row, None)

    def on_evaluate(self, args, state, control, metrics: dict[str, float], **_: Any) -> None:
        if self._row.get("step") != state.global_step:
            self._row = _place(state)
        self._row |= {f"validation_{key.removeprefix('eval_')}": value for key, value in metrics.items()}

    def on_save(self, args, state, control, **_: Any) -> None:
        directory = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        worker = ray.train.get_context()
        seal_share(directory, worker.get_world_rank(), worker.get_world_size())
        numbers = {**_place(state), **self._row, "validation_loss": _to_compare(self._row)}
        self._report(numbers, ray.train.Checkpoint.from_directory(directory))
        shutil.rmtree(directory)

    def _report(self, numbers: Mapping[str, float], checkpoint: ray.train.Checkpoint | None) -> None:
        if ray.train.get_context().get_world_rank() == 0:
            with room_for("a line of metrics", self._rows.parent):
                append_rows(self._rows, [self._row] if self._row else [], durably=checkpoint is not None)
        ray.train.report(dict(numbers), checkpoint=checkpoint, checkpoint_upload_fn=self._hand_over)
        self._row = {}


def append_rows(path: Path, rows: Sequence[Mapping[str, float]], durably: bool) -> None:
    """Lines of JSON at the end of a file, also where the last one there was cut short by a full disk; `durably`: with
    all that were there before."""
    with open(path, "ab+") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 1))
        cut = stream.read() not in (b"", b"\n")
        stream.write(b"\n" * cut + b"".join(json.dumps(row).encode() + b"\n" for row in rows))
        if durably:
            stream.flush()
            os.fsync(stream.fileno())


def _to_compare(row: Mapping[str, float]) -> float:
    """Ray Train's list of checkpoints is JSON with null for what is not finite, which it could not compare later."""
    loss = row.get("validation_loss", math.inf)
    return loss if math.isfinite(loss) else WORST


def _place(state: Any) -> dict[str, float]:
    return {"step": state.global_step, "epoch": float(state.epoch)}
