"""What DeepSpeed holds and saves of a learner. Its files are pickles: rlhf/training/pickles.py reads them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

_SHARES = "*_optim_states.pt"


def client_state() -> dict[str, Any]:
    """What a checkpoint must hold to be divided anew later: that none of its weights is cut in a way of its own."""
    from deepspeed.checkpoint.constants import UNIVERSAL_CHECKPOINT_INFO

    return {UNIVERSAL_CHECKPOINT_INFO: {}}


def undo_first_step(optimizer: Any) -> None:
    """Of DeepSpeed's optimizer in bfloat16 without ZeRO, which allocates Adam's moments by a step with a gradient of 0:
    Adam has counted it, and the float32 masters have decayed."""
    optimizer.refresh_fp32_params()
    for kept in optimizer.state.values():
        kept["step"].zero_()


def saved_ranks(directory: Path) -> int:
    """Over how many ranks the state in a directory of DeepSpeed's is divided; 0 where it is not (ZeRO stage 0)."""
    return len(list(directory.glob(_SHARES)))


def beside(directory: Path) -> Path:
    """Where the divided state of a role goes while it is loaded: not into the checkpoint, which is sealed, nor where
    ranks that were given up, but run on, may still write: the ranks' meeting point is in its name."""
    checkpoint, met = directory.parent, f"{os.environ.get('MASTER_ADDR')}_{os.environ.get('MASTER_PORT')}"
    return checkpoint.with_name(f".{checkpoint.name}.{met}.universal") / directory.name
