"""Optimizer steps whose loss or gradient is not finite: told, saved, and passed over where the config allows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist

from rlhf.bad_batch import save_bad_batch
from rlhf.batch import Experience
from rlhf.device import current
from rlhf.errors import NumericError
from rlhf.metrics import Metrics, Sum
from rlhf.not_finite import NotFinite, SkipBatch

_REMEDY = "lower the learning rate, or look for wrong values there"


@dataclass(frozen=True)
class Step:
    """An optimizer step that changed nothing: of PPO step `step` (from 0), the `number`-th of the role, the
    `in_a_row`-th such one in a row. `failed` is this rank's micro-batch whose loss is not finite, None where its losses
    were; `last` its last micro-batch."""

    step: int
    number: int
    in_a_row: int
    failed: Experience | None
    last: Experience


@dataclass(frozen=True)
class LeftOut:
    """What a rank of a role does about such steps; batches are saved below `failures`."""

    config: NotFinite
    role: str
    scope: str
    failures: Path

    def passed(self) -> Metrics:
        """Nothing was left out; empty where it could not have been."""
        return self._count(0)

    def judge(self, step: Step) -> Metrics:
        """All ranks come here together. Raises NumericError where the config says to stop."""
        is_loss = _on_any_rank(step.failed is not None)
        said = (
            f"step {step.step + 1}, role {self.role}: the {'loss' if is_loss else 'gradient norm'} is not finite; the "
            f"micro-batch of each rank {self._save(step)}"
        )
        if not isinstance(self.config, SkipBatch):
            raise NumericError(f"{said}; {_REMEDY}")
        counted = f"it is number {step.in_a_row} in a row"
        if step.in_a_row > self.config.in_a_row:
            raise NumericError(f"{said}; {counted}, more than not_finite.in_a_row = {self.config.in_a_row}; {_REMEDY}")
        print(f"{said}; {counted}, and is left out", flush=True)  # in the actor's log
        return self._count(1)

    def _count(self, left_out: int) -> Metrics:
        if not isinstance(self.config, SkipBatch):
            return {}
        return {f"{self.scope}/left_out": Sum(float(left_out) if dist.get_rank() == 0 else 0.0)}

    def _save(self, step: Step) -> str:
        batch = step.last if step.failed is None else step.failed
        name = f"step_{step.step + 1:06d}_{self.role}_{step.number}_rank"
        own, every = (self.failures / f"{name}{rank}.safetensors" for rank in (dist.get_rank(), "*"))
        return save_bad_batch(own, vars(batch), named=every)


def _on_any_rank(said: bool) -> bool:
    """Whether any rank says so; all have to ask."""
    answer = torch.tensor([float(said)], device=current())
    dist.all_reduce(answer, dist.ReduceOp.MAX)
    return bool(answer)
