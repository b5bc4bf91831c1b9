"""Layers that a learner leaves as they are."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.errors import ConfigError
from rlhf.ppo.config import LearnerConfig
from rlhf.training.build import freeze


def frozen_names(directory: Any, layers: int) -> tuple[set[str], set[str]]:
    """Names of the parameters that stay, and of all."""
    import torch

    from rlhf.models.loading import load_causal_lm

    model = load_causal_lm(str(directory), torch.float32)
    freeze(model, LearnerConfig(model=str(directory), frozen_layers=layers))
    named = dict(model.named_parameters())
    return {name for name, parameter in named.items() if not parameter.requires_grad}, set(named)


def test_lower_layers_and_untied_input_embeddings_stay(tiny_models: Any) -> None:
    frozen, every = frozen_names(tiny_models.untied, 1)
    below = {name for name in every if ".layers.0." in name}
    assert below and frozen == below | {"model.embed_tokens.weight"}


def test_tied_embeddings_are_the_output_too_and_are_trained(tiny_models: Any) -> None:
    frozen, every = frozen_names(tiny_models.tied, 1)
    assert frozen == {name for name in every if ".layers.0." in name}


def test_without_frozen_layers_everything_is_trained(tiny_models: Any) -> None:
    assert frozen_names(tiny_models.untied, 0)[0] == set()


def test_no_layer_left_to_train_is_refused(tiny_models: Any) -> None:
    with pytest.raises(ConfigError, match=r"frozen_layers: 2 of 2 layers of .* leave none to train"):
        frozen_names(tiny_models.tied, 2)
