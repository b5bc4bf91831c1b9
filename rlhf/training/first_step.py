"""Adam's first step in a Trainer, where DeepSpeed has taken one before there was a gradient."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback

from rlhf.training.deepspeed_state import undo_first_step


class UndoFirstStep(TrainerCallback):
    """Undone for the optimizer of a run that begins; what goes on takes that of its checkpoint."""

    def on_train_begin(self, args, state, control, optimizer, **_: Any) -> None:
        if state.global_step == 0:
            undo_first_step(optimizer.optimizer)
