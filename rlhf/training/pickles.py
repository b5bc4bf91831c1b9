"""The one place where pickles are read: a pickle can run code, so each function takes a directory that was verified.

DeepSpeed's states and a Trainer's are such. tests/test_security.py lets no other module name what unpickles.
"""

from __future__ import annotations

import shutil
from argparse import Namespace
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from rlhf.sound import SoundDirectory


def load_state(engine: Any, source: SoundDirectory, tag: str) -> dict[str, Any]:
    """Let a DeepSpeed engine take the state of that tag; what was kept beside it."""
    loaded, client_state = engine.load_checkpoint(str(source.path), tag=tag)
    if loaded is None:
        raise FileNotFoundError(f"{source.path}: holds no DeepSpeed checkpoint")
    return client_state


def kept_beside(source: SoundDirectory, tag: str) -> dict[str, Any]:
    """What was kept beside the state of that tag, and DeepSpeed's own entries, of the first rank."""
    import torch

    first = min((source / tag).path.glob("*_model_states.pt"))
    return torch.load(first, map_location="cpu", weights_only=True, mmap=True)


def divided(source: SoundDirectory, target: Path, tag: str, write: bool) -> SoundDirectory:
    """`target` with the universal form of DeepSpeed's state of that tag, which any number of ranks can load.

    It takes the room of the optimizer states. One rank writes it, and the others wait before they read.
    """
    if write:
        _convert((source / tag).path, target / tag)
    return SoundDirectory(target)


def _convert(source: Path, target: Path) -> None:
    from deepspeed.checkpoint import ds_to_universal

    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    arguments = Namespace(
        input_folder=str(source), output_folder=str(target), num_extract_workers=1, num_merge_workers=1,
        keep_temp_folder=False, strict=True, inject_missing_state=False,
    )
    with redirect_stdout(StringIO()):
        ds_to_universal.main(arguments)


def whole_weights(source: SoundDirectory, tag: str) -> dict[str, Any]:
    """Tensors by parameter name, in the precision that they were trained in: of ZeRO-3 float32 masters.

    Below ZeRO-3 every rank has all weights, and rank 0 wrote them. DeepSpeed's own conversion would read the masters
    instead, which are rounded to these, and does not know those of bfloat16 under ZeRO-1.
    """
    written = (source / tag).path / "mp_rank_00_model_states.pt"
    if written.is_file():
        import torch

        return torch.load(written, map_location="cpu", weights_only=True)["module"]
    from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

    with redirect_stdout(StringIO()):
        return get_fp32_state_dict_from_zero_checkpoint(str(source.path), tag=tag)


def go_on_training(trainer: Any, source: SoundDirectory) -> None:
    """Let a transformers Trainer train on from its checkpoint."""
    trainer.train(resume_from_checkpoint=str(source.path))
