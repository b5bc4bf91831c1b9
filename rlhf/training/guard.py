"""A training step whose loss or gradient is not finite: on all ranks at once, told, its batch saved, and passed over
where the config allows it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from transformers import TrainerCallback

from rlhf.artifacts import write_json
from rlhf.bad_batch import save_bad_batch
from rlhf.errors import NumericError
from rlhf.not_finite import SkipSteps
from rlhf.training.jobs import TrainJob
from rlhf.training.replay_stage import metadata_of
from rlhf.training.told import tell


@dataclass
class PassedOver:
    """Optimizer steps that changed nothing: the last ones in a row, and those since the last line of metrics."""

    in_a_row: int = 0
    since_logged: int = 0


@dataclass(frozen=True)
class Before:
    """What a Trainer had summed up for its next line of metrics when a step began."""

    loss: torch.Tensor
    counts: dict[str, int]


class Guarded:
    """Gives a transformers Trainer a look at the gradient norm of each step.

    The norm runs over all ranks, so all of them see the same and stop together, none waits for another in a
    collective, and Ray Train does not restart what would only fail again. A loss that is not finite on any rank
    makes it not finite, too, and DeepSpeed then changes no weight. Only under ZeRO-0 in float32 it neither tells the
    norm nor looks at it: there, `StepByNorm` does both. A step that is left out counts for the schedule of the
    learning rate.
    """

    job: TrainJob
    failed = False
    plain_norm: float | None = None  # said by StepByNorm

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.left_out = PassedOver()
        self._seen: list[tuple[torch.Tensor, Mapping[str, Any]]] = []

    @property
    def sums(self) -> dict[str, list[float]]:
        """What TRL's trainers log the means of, by name. transformers' own has none."""
        return getattr(self, "_metrics", {"train": {}})["train"]

    def training_step(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        if not self._seen:
            self._before = Before(self._tr_loss.clone(), {name: len(found) for name, found in self.sums.items()})
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._seen.append((loss, inputs))
        return loss

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        """One that is not finite has no finite gradient: −log σ(−∞) would have."""
        found = super().compute_loss(*args, **kwargs)
        if isinstance(found, tuple):
            return (_nan_unless_finite(found[0]), *found[1:])
        return _nan_unless_finite(found)

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm) if self.plain_norm is None else self.plain_norm
        if norm >= 0 and math.isfinite(norm):  # DeepSpeed says -1 for some norms that are not finite
            self.left_out.in_a_row = 0
        else:
            norm = self._pass_over(norm)
        self._seen.clear()
        return norm

    def _pass_over(self, norm: Any) -> Any:
        """None, which is not logged, for a step that is left out."""
        allowed = self.job.training.not_finite
        self.left_out.in_a_row += 1
        self.failed = not isinstance(allowed, SkipSteps) or self.left_out.in_a_row > allowed.in_a_row
        self._record()
        if self.failed:
            return norm
        self.left_out.since_logged += 1
        self._take_back()
        if hasattr(self.optimizer.optimizer, "overflow"):
            self.optimizer.optimizer.overflow = False  # DeepSpeed is done with it; transformers would hold the schedule
        return None

    def _take_back(self) -> None:
        """The next line of metrics is that of the other steps."""
        self._tr_loss.copy_(self._before.loss)
        self._globalstep_last_logged += 1  # the mean runs over a step less
        for name, found in [*self.sums.items()]:
            del found[self._before.counts.get(name, 0) :]
            if not found:
                del self.sums[name]

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and isinstance(self.job.training.not_finite, SkipSteps):
            logs["left_out"] = self.left_out.since_logged
            self.left_out.since_logged = 0
        super().log(logs, *args, **kwargs)

    def _bad_losses(self) -> list[tuple[float, Mapping[str, Any]]]:
        return [(float(loss), batch) for loss, batch in self._seen if not torch.isfinite(loss)]

    def _first_bad_rank(self) -> int | None:
        """The first rank that saw a loss that is not finite in this step; all ranks have to ask."""
        mine = self.args.process_index if self._bad_losses() else self.args.world_size
        first = torch.tensor(mine, device=self.args.device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return int(first) if first < self.args.world_size else None

    def _record(self) -> None:
        """One rank saves a batch and says why: the first with a bad loss, or rank 0 when only the gradient is bad."""
        first, step, rank = self._first_bad_rank(), self.state.global_step + 1, self.args.process_index
        if rank != (first or 0):
            return
        loss, batch = (self._bad_losses() or [(0.0, self._seen[-1][1])])[0]
        path = self.job.work / f"bad_batch_step{step}_worker{rank}.safetensors"
        tensors = {key: value for key, value in batch.items() if isinstance(value, torch.Tensor)}
        kept = save_bad_batch(path, tensors, metadata_of(self.job))
        what = "the gradient norm is not finite" if first is None else f"the loss is {loss}"
        self._say(f"{self.job.kind}: {what} at step {step} on worker {rank}; the batch {kept}; ")

    def _say(self, what: str) -> None:
        allowed, remedy = self.job.training.not_finite, "look at it, or lower training.learning_rate"
        counted = f"it is number {self.left_out.in_a_row} in a row"
        if not self.failed:
            tell(self.job, f"{what}{counted}, and is left out")
        elif isinstance(allowed, SkipSteps):
            bound = f"more than training.not_finite.in_a_row = {allowed.in_a_row}"
            self._end(f"{what}{counted}, {bound}; {remedy}")
        else:
            self._end(f"{what}{remedy}")

    def _end(self, sentence: str) -> None:
        try:
            write_json(self.job.failure, {"sentence": sentence})
        except OSError:  # a full disk, say, which is not why it ends; for Ray Train this is a loss like any other
            raise NumericError(sentence) from None

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints are working files here: no README is written for them."""


def _nan_unless_finite(loss: torch.Tensor) -> torch.Tensor:
    """[] of the same type, without a look at the device."""
    return loss * torch.where(loss.detach().isfinite(), 1.0, torch.nan).to(loss.dtype)


class StopOnFailure(TrainerCallback):
    """Ends training after a failed step, without a validation or a checkpoint of what has come of it."""

    def __init__(self, trainer: Guarded) -> None:
        self._trainer = trainer

    def on_step_end(self, args, state, control, **_: Any) -> None:
        if self._trainer.failed:
            control.should_log = control.should_evaluate = control.should_save = False
            control.should_training_stop = True


class StepByNorm(TrainerCallback):
    """In float32 without ZeRO, where DeepSpeed would take a step with any gradients: clips them by their norm, which it
    tells. With one that is not finite the optimizer finds no gradients, and torch's pass such a step over without
    counting it. Gradients are the same on all ranks."""

    def __init__(self, trainer: Guarded) -> None:
        self._trainer = trainer

    def on_train_begin(self, args, state, control, optimizer, **_: Any) -> None:
        self._trainer.model_wrapped._config.gradient_clipping = 0.0  # of DeepSpeed's own, that of an infinite norm is 0
        optimizer.optimizer.register_step_pre_hook(self._look)

    def _look(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        weights = [weight for group in optimizer.param_groups for weight in group["params"] if weight.grad is not None]
        norm = torch.nn.utils.get_total_norm([weight.grad for weight in weights])
        self._trainer.plain_norm = float(norm)
        if math.isfinite(self._trainer.plain_norm):
            torch.nn.utils.clip_grads_with_norm_(weights, self._trainer.job.training.max_grad_norm, norm)
            return
        for weight in weights:
            weight.grad = None
