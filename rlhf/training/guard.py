"""Stops a training run at the first step that is not finite, on all ranks at once, and keeps the batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from transformers import TrainerCallback

from rlhf.artifacts import write_json
from rlhf.training.jobs import TrainJob


class Guarded:
    """Gives a transformers Trainer a look at the gradient norm of each step.

    The norm runs over all ranks, so all of them see the same and stop together, none waits for another in a
    collective, and Ray Train does not restart what would only fail again. A loss that is not finite on any rank
    makes it not finite, too, and DeepSpeed then changes no weight. Only under ZeRO-0 in float32 it neither tells the
    norm nor looks at it: there, losses and the new weights say what it was.
    """

    job: TrainJob
    failed = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: list[tuple[torch.Tensor, Mapping[str, Any]]] = []

    def training_step(self, model: Any, inputs: Mapping[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        loss = super().training_step(model, inputs, *args, **kwargs)
        self._seen.append((loss, inputs))
        return loss

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        # DeepSpeed says -1 for some norms that are not finite
        good = norm >= 0 and math.isfinite(norm) if norm is not None else self._stayed_finite(model)
        if not good:
            self.failed = True
            self._record_failure()
        self._seen.clear()
        return norm

    def _stayed_finite(self, model: Any) -> bool:
        """Losses of all ranks, and weights, which are the same on all; every rank has to ask."""
        losses = self._first_bad_rank() is None
        return losses and bool(torch.stack([weight.isfinite().all() for weight in model.parameters()]).all())

    def _bad_losses(self) -> list[tuple[float, Mapping[str, Any]]]:
        return [(float(loss), batch) for loss, batch in self._seen if not torch.isfinite(loss)]

    def _first_bad_rank(self) -> int | None:
        """The first rank that saw a loss that is not finite in this step; all ranks have to ask."""
        mine = self.args.process_index if self._bad_losses() else self.args.world_size
        first = torch.tensor(mine, device=self.args.device)
        dist.all_reduce(first, op=dist.ReduceOp.MIN)
        return int(first) if first < self.args.world_size else None

    def _record_failure(self) -> None:
        """One rank saves a batch and says why: the first with a bad loss, or rank 0 when only the gradient is bad."""
        first, step, rank = self._first_bad_rank(), self.state.global_step + 1, self.args.process_index
        if rank != (first or 0):
            return
        loss, batch = (self._bad_losses() or [(0.0, self._seen[-1][1])])[0]
        saved = self.job.work / f"bad_batch_step{step}_worker{rank}.safetensors"
        tensors = {key: value.cpu().contiguous() for key, value in batch.items() if isinstance(value, torch.Tensor)}
        save_file(tensors, saved)
        what = "the gradient is not finite" if first is None else f"the loss is {loss}"
        sentence = (
            f"{self.job.kind}: {what} at step {step} on worker {rank}; the batch was saved to {saved}; "
            "look at it, or lower training.learning_rate"
        )
        write_json(self.job.failure, {"sentence": sentence})

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Checkpoints are working files here: no README is written for them."""


class StopOnFailure(TrainerCallback):
    """Ends training after a failed step, without a validation or a checkpoint of what has come of it."""

    def __init__(self, trainer: Guarded) -> None:
        self._trainer = trainer

    def on_step_end(self, args, state, control, **_: Any) -> None:
        if self._trainer.failed:
            control.should_log = control.should_evaluate = control.should_save = False
            control.should_training_stop = True
