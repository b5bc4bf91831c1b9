"""What DeepSpeed has saved of a learner: made whole, and divided anew for another number of ranks.

Its files are pickles. Whoever reads them has compared every byte with the SHA-256 that the run itself wrote.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

_SHARES = "*_optim_states.pt"


def client_state() -> dict[str, Any]:
    """What a checkpoint must hold to be divided anew later: that none of its weights is cut in a way of its own."""
    from deepspeed.checkpoint.constants import UNIVERSAL_CHECKPOINT_INFO

    return {UNIVERSAL_CHECKPOINT_INFO: {}}


def saved_ranks(directory: Path) -> int:
    """Over how many ranks the state in a directory of DeepSpeed's is divided; 0 where it is not (ZeRO stage 0)."""
    return len(list(directory.glob(_SHARES)))


def beside(directory: Path) -> Path:
    """Where the divided state of a role goes while it is loaded: not into the checkpoint, which is sealed."""
    checkpoint = directory.parent
    return checkpoint.with_name(f".{checkpoint.name}.universal") / directory.name


def convert(source: Path, target: Path) -> None:
    """Write the universal form of what DeepSpeed has saved in `source`. It takes the room of the optimizer states."""
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    arguments = Namespace(
        input_folder=str(source), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=False,
    )
    with redirect_stdout(StringIO()):
        ds_to_universal.main(arguments)


def whole_weights(directory: Path) -> dict[str, Any]:
    """Tensors by parameter name: ZeRO's float32 masters where there are any."""
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    if saved_ranks(directory):
        with redirect_stdout(StringIO()):
            return get_fp32_state_dict_from_zero_checkpoint(str(directory.parent), tag=directory.name)
    import torch

    return torch.load(directory / "mp_rank_00_model_states.pt", map_location="cpu", weights_only=True)["module"]
