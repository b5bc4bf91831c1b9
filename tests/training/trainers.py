"""Ranks that train as the workers of a Ray Train job do, without Ray Train, and meet something odd in one step."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from rlhf.config import validate
from rlhf.training.config import TrainingConfig
from rlhf.training.examples import write_examples
from rlhf.training.jobs import Kind, TrainJob
from tests.training.ranks import LearnerRank

STEPS, LENGTH = 3, 8


@dataclass(frozen=True)
class Odd:
    """What a rank meets in some of three steps."""

    loss: float | None = None  # a factor of its losses
    more: float | None = None  # is added to its losses, whose gradient it leaves finite
    gradient: float | None = None  # of a weight, all of it
    ranks: tuple[int, ...] = (0, 1)
    steps: tuple[int, ...] = (2,)


@dataclass(frozen=True)
class Trained:
    """How a rank's training ended: the step it came to, its weights before the last odd step and after it, the steps
    that Adam has counted, and the lines of metrics."""

    step: int
    said: str | None
    before: list[Tensor]
    after: list[Tensor]
    counted: set[int]
    lines: list[dict[str, float]]


def job_of(
    work: Path, model: Path, stage: int, precision: str, kind: Kind = "pretrain", **changes: Any
) -> TrainJob:
    """Three steps of two micro-batches on each of two workers; its examples, numbers, are written."""
    training = validate(TrainingConfig, {
        "batch_size": 4, "micro_batch_size": 1, "eval_every": 100, "log_every": 100, "precision": precision,
        "learning_rate": 0.01, "schedule": "constant", "warmup_ratio": 0.0, "deepspeed": {"zero_stage": stage},
        **changes,
    })
    job = TrainJob(kind, str(model), str(model), work, training, STEPS, seed=0, attempt=work)
    generator = torch.Generator().manual_seed(0)
    blocks, others = torch.randint(3, 250, (2, 4 * STEPS, LENGTH), generator=generator).tolist()
    columns = {"chosen_ids": blocks, "rejected_ids": others} if kind == "reward" else {
        "input_ids": blocks, "labels": blocks
    }
    write_examples(job.examples, columns, {"all": columns})
    return job


class TrainerRank(LearnerRank):
    """A process that is one rank, for one job after another."""

    def train(self, job: TrainJob, odd: Odd, checkpoint: Path | None = None) -> Trained:
        """Train to the end, whichever that is, from a checkpoint if there is one."""
        from accelerate.state import AcceleratorState

        from rlhf.training.pickles import go_on_training
        from rlhf.training.reporting import RayReport
        from rlhf.training.shares import require_as_sealed
        from rlhf.training.since_logged import TakeUpSums
        from rlhf.training.standing import Standing
        from rlhf.training.trainers import build_trainer

        AcceleratorState._reset_state(reset_partial_state=True)
        standing = Standing(job.work / f"position{self.rank}.json", job.training.deadline_s)
        trainer = build_trainer(job, str(job.work / f"scratch{self.rank}"), standing)
        trainer.remove_callback(RayReport)
        meeting = Meeting(odd if self.rank in odd.ranks else Odd())
        trainer.add_callback(meeting)
        if checkpoint is None:
            trainer.train()
        else:
            trainer.add_callback(TakeUpSums(trainer, checkpoint))
            go_on_training(trainer, require_as_sealed(checkpoint))
        said = json.loads(job.failure.read_text())["sentence"] if job.failure.exists() else None
        counted = {int(kept["step"]) for kept in trainer.optimizer.optimizer.state.values()}
        lines = [line for line in trainer.state.log_history if "loss" in line]
        return Trained(trainer.state.global_step, said, meeting.before, meeting.after, counted, lines)


class Meeting(TrainerCallback):
    """Meets what is odd, and remembers the weights from before and after it."""

    def __init__(self, odd: Odd) -> None:
        self.odd, self.before, self.after = odd, [], []
        self._hooks: list[Any] = []

    def on_step_begin(self, args, state, control, model, **_: Any) -> None:
        if state.global_step + 1 in self.odd.steps:
            self.before = _own(model)
            self._hooks = list(self._meet(model))

    def on_step_end(self, args, state, control, model, **_: Any) -> None:
        if state.global_step in self.odd.steps:
            self.after = _own(model)
        while self._hooks:
            self._hooks.pop().remove()

    def _meet(self, model: Any) -> Any:
        if self.odd.loss is not None or self.odd.more is not None:
            yield model.register_forward_hook(self._changed)
        if self.odd.gradient is not None:
            weight = next(model.parameters())
            yield weight.register_hook(lambda gradient: torch.full_like(gradient, self.odd.gradient))

    def _changed(self, module: Any, inputs: Any, output: Any) -> Any:
        factor, more = (1.0 if self.odd.loss is None else self.odd.loss), self.odd.more or 0.0
        name = "logits" if output.get("loss") is None else "loss"  # the loss of pairs is made of their scores
        output[name] = output[name] * factor + more
        return output


def _own(model: Any) -> list[Tensor]:
    """What this rank holds of the weights."""
    return [getattr(weight, "ds_tensor", weight).detach().clone() for weight in model.parameters()]


NAN_LOSS = Odd(loss=math.nan, ranks=(1,))
INFINITE_LOSS = Odd(more=math.inf, ranks=(1,))
INFINITE_GRADIENT = Odd(gradient=math.inf, ranks=(1,))
INFINITE_NORM = Odd(gradient=1e38, ranks=(1,))  # the gradients are finite, and stay so when they are summed
NO_GRADIENT = Odd(loss=0.0)
