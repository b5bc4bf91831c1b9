"""Adam's first step, where DeepSpeed has taken one before there was a gradient."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback


def undo_first_step(optimizer: Any) -> None:
    """Of DeepSpeed's optimizer in bfloat16 without ZeRO, which allocates Adam's moments by a step with a gradient of 0:
    Adam has counted it, and the float32 masters have decayed."""
    optimizer.refresh_fp32_params()
    for kept in optimizer.state.values():
        kept["step"].zero_()


class UndoFirstStep(TrainerCallback):
    """The same for the optimizer of a transformers Trainer that begins; what goes on takes that of its checkpoint."""

    def on_train_begin(self, args, state, control, optimizer, **_: Any) -> None:
        if state.global_step == 0:
            undo_first_step(optimizer.optimizer)
