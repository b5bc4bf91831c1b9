"""Ends a training run that the driver was asked to end, at a point from which it goes on exactly."""

from __future__ import annotations

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from rlhf.training.jobs import TrainJob


class EndOnRequest(TrainerCallback):
    """After the next checkpoint, which has its validation like any other. All ranks learn of it from rank 0."""

    def __init__(self, job: TrainJob) -> None:
        self._job, self._asked = job, False

    def on_step_end(self, args, state, control, **_) -> None:
        if control.should_save and state.global_step < state.max_steps:
            self._asked = self._is_asked(args)

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
