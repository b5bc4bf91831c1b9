"""Weights are safetensors. A file of another kind is a pickle, which can run code when it is read: refused, unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.errors import ModelError

INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


def require_safetensors(source: str | Path) -> None:
    """Raises ModelError for a directory whose weights are pickled, and for an index that names anything but
    safetensors files beside itself, in a directory or on a hub."""
    from transformers.utils import cached_file

    directory = Path(source)
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        _refuse_pickles(directory)
    index = cached_file(
        str(source), INDEX, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )
    if index is not None:
        _require_plain_names(source, json.loads(Path(index).read_text(encoding="utf-8")))


def _refuse_pickles(directory: Path) -> None:
    pickles = sorted(path.name for kind in _PICKLES for path in directory.glob(kind) if path.name not in _NOT_WEIGHTS)
    if pickles:
        raise ModelError(
            f"{directory}: its weights are pickled ({pickles[0]}), and a pickle can run code when it is read; where "
            f"you trust it, load it with transformers' from_pretrained, and give what save_pretrained writes"
        )


def _require_plain_names(source: str | Path, index: Any) -> None:
    names = index.get("weight_map") if isinstance(index, Mapping) else None
    if not isinstance(names, Mapping):
        raise ModelError(f"{source}: {INDEX} is no index of weights; save the model again with save_pretrained")
    for name in dict.fromkeys(map(str, names.values())):
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise ModelError(f"{source}: {INDEX} names {name!r:.100}, which is no safetensors file beside it")
