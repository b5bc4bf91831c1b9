"""Ends a training run that the driver was asked to end, at a point from which it goes on exactly."""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl
from transformers.trainer import TRAINER_STATE_NAME

from rlhf.training.jobs import TrainJob


class EndOnRequest(TrainerCallback):
    """After the step at hand, with a checkpoint of it. All ranks learn of it from rank 0.

    It is told of a checkpoint after whoever brings that to where it stays.
    """

    def __init__(self, job: TrainJob) -> None:
        self._job, self._asked = job, False

    def on_train_begin(self, args, state, control, **_) -> None:
        if args.process_index == 0:
            self._job.ended_at.unlink(missing_ok=True)

    def on_step_end(self, args, state, control, **_) -> None:
        if not control.should_training_stop and self._is_asked(args):  # it ends by itself, or has failed: on all ranks
            self._asked = control.should_save = True

    def on_save(self, args, state, control, **_) -> None:
        if self._asked and not control.should_training_stop:  # a run that is over anyway has ended by itself
            control.should_training_stop = True
            if args.process_index == 0:
                self._job.ended_at.write_text(str(state.global_step))

    def _is_asked(self, args) -> bool:
        mine = args.process_index == 0 and self._job.end_requested.exists()
        asked = torch.tensor([mine], dtype=torch.int32, device=args.device)
        dist.all_reduce(asked, op=dist.ReduceOp.MAX)
        return bool(asked)


def is_over(checkpoint: Path) -> bool:
    """Whether training had come to its end, by itself, when a Trainer wrote that checkpoint: after its last step, or
    where it stopped early. Going on from it would make a step more."""
    state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    return bool(state["stateful_callbacks"][TrainerControl.__name__]["args"]["should_training_stop"])
