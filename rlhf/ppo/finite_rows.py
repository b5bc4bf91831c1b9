"""Rows of a rollout for which a role computed what is not finite: told, saved, and left out where the config allows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf.bad_batch import save_bad_batch
from rlhf.batch import Rollout
from rlhf.errors import NumericError
from rlhf.not_finite import NotFinite, SkipBatch

_OUTPUT = {
    "reward": "scores", "policy": "logprobs", "reference": "ref_logprobs", "critic": "values",
    "rollout": "sampler_logprobs",
}
_FROZEN = "look for values in its weights that are not finite, or overflow in its precision"
_TRAINED = "its weights are no longer sound: lower its learning rate, and delete the work directory to start over"
_LOOK = {"reward": _FROZEN, "reference": _FROZEN, "policy": _TRAINED, "critic": _TRAINED, "rollout": _FROZEN}


@dataclass(frozen=True)
class FiniteRows:
    """The check of a run; batches are saved below `failures`."""

    config: NotFinite
    failures: Path

    def bad(self, step: int, role: str, rollout: Rollout, numbers: Tensor) -> Tensor:
        """Rows to leave out, [B] bool; `numbers` are one per row, or one per token, of which those of the response
        count. `step` counts from 0. Raises NumericError where the config says to stop, or they are too many."""
        bad = ~torch.isfinite(numbers)
        if numbers.dim() == 2:
            bad = (bad & rollout.response_mask).any(dim=1)
        if bool(bad.any()):
            self._judge(step, role, rollout, numbers, int(bad.sum()))
        return bad

    def _judge(self, step: int, role: str, rollout: Rollout, numbers: Tensor, count: int) -> None:
        kind = role.partition(".")[0]
        said = (
            f"step {step + 1}, role {role}: {count} of {len(numbers)} rows of its {_OUTPUT[kind]} are not finite; the "
            f"batch {self._save(step, role, rollout, numbers)}"
        )
        if not isinstance(self.config, SkipBatch):
            raise NumericError(f"{said}; {_LOOK[kind]}")
        if count > self.config.max_fraction * len(numbers):
            bound = f"more than not_finite.max_fraction = {self.config.max_fraction:g}"
            raise NumericError(f"{said}; that is {bound}; {_LOOK[kind]}")
        print(f"{said}; they are left out", flush=True)  # in the actor's log

    def _save(self, step: int, role: str, rollout: Rollout, numbers: Tensor) -> str:
        path = self.failures / f"step_{step + 1:06d}_{role}.safetensors"
        tensors = {name: value for name, value in vars(rollout).items() if isinstance(value, Tensor)}
        return save_bad_batch(path, {**tensors, _OUTPUT[role.partition(".")[0]]: numbers})
