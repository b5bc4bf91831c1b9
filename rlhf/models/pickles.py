"""Weights are safetensors. A file of another kind is a pickle, which can run code when it is read: refused, unread."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.errors import ModelError

INDEX, ADAPTER = "model.safetensors.index.json", "adapter_config.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
_NOT_WEIGHTS = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt")


def require_safetensors(source: str | Path) -> None:
    """Raises ModelError for a directory whose weights are pickled, for an index that names anything but safetensors
    files beside itself, and for an adapter beside the weights, in a directory or on a hub."""
    directory = Path(source)
    if directory.is_dir() and not any(directory.glob("*.safetensors")):
        _refuse_pickles(directory)
    require_no_adapter(source)
    index = _file_of(source, INDEX)
    if index is not None:
        _require_plain_names(source, json.loads(Path(index).read_text(encoding="utf-8")))


def require_no_adapter(source: str | Path) -> None:
    """Raises ModelError where transformers would put an adapter into the model unasked, and read it, pickled or not."""
    if _file_of(source, ADAPTER) is not None:
        raise ModelError(
            f"{source}: holds an adapter ({ADAPTER}), which transformers would add to the model and vLLM would not; "
            f"merge it first (peft's merge_and_unload), and give what save_pretrained writes"
        )


def _file_of(source: str | Path, name: str) -> str | None:
    """Where a file of a model lies, in a directory or fetched from a hub; None: the model has none."""
    from transformers.utils import cached_file

    return cached_file(
        str(source), name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False
    )


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
