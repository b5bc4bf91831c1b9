"""The model that a training job begins with."""

from __future__ import annotations

from typing import Any

import torch

from rlhf.models.loading import NewModelConfig, load_causal_lm, new_causal_lm, new_reward_model


def initial_model(kind: str, model: str | NewModelConfig, tokenizer: Any, seed: int) -> Any:
    """Of float32, on the CPU; new weights are drawn from `seed`. Raises ModelError for a source that holds none."""
    if kind == "reward":
        assert isinstance(model, str)
        return new_reward_model(model, torch.float32, seed)
    if isinstance(model, NewModelConfig):
        return new_causal_lm(model, tokenizer, seed)
    return load_causal_lm(model, torch.float32)
