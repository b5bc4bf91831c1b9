"""Weights of a transformers directory, straight from its safetensors files."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

from rlhf.errors import ModelError

INPUT_EMBEDDING, OUTPUT_EMBEDDING = "model.embed_tokens.weight", "lm_head.weight"


def read_weights(directory: Path) -> list[tuple[str, Tensor]]:
    """(name, tensor) of every weight; a tied output embedding under its own name too, since an engine that is not
    sent it keeps the old one. Raises ModelError when there are no safetensors files."""
    from safetensors.torch import load_file

    files = sorted(Path(directory).glob("*.safetensors"))
    if not files:
        raise ModelError(f"{directory}: holds no safetensors files; save the model with save_pretrained")
    weights = {name: tensor for file in files for name, tensor in load_file(str(file)).items()}
    if OUTPUT_EMBEDDING not in weights and INPUT_EMBEDDING in weights:
        weights[OUTPUT_EMBEDDING] = weights[INPUT_EMBEDDING]
    return list(weights.items())


def same_architecture(first: Path, second: Path) -> bool:
    """Whether an engine built for one directory can take the weights of the other."""
    ignored = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "use_cache")
    configs = []
    for directory in (first, second):
        path = Path(directory) / "config.json"
        if not path.is_file():
            return False
        content = json.loads(path.read_text())
        configs.append({key: value for key, value in content.items() if key not in ignored})
    return configs[0] == configs[1]
