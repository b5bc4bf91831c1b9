"""A checkpoint's policy as a plain transformers directory, without Ray and without the ranks that wrote it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf import device
from rlhf.errors import RunError
from rlhf.models.heads import PolicyModel
from rlhf.models.loading import load_causal_lm, load_tokenizer
from rlhf.ppo.config import PPOConfig
from rlhf.training.deepspeed_engine import CHECKPOINT_TAG
from rlhf.training.deepspeed_state import whole_weights
from rlhf.training.lora import add_adapters
from rlhf.training.seal import damage
from rlhf.training.weights import export_model


@dataclass(frozen=True)
class WholeModule:
    """A module whose weights all lie here."""

    module: nn.Module

    @contextmanager
    def whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        yield


def export_checkpoint(config: PPOConfig, checkpoint: Path, target: Path) -> None:
    """Write policy (adapters merged) and tokenizer of a checkpoint to `target`, which must not exist.

    Raises RunError for a checkpoint that is not as it was written; nothing of it is unpickled then.
    """
    if target.exists():
        raise RunError(f"{target}: exists; give a directory that does not")
    found = damage(checkpoint)
    if found is not None:
        raise RunError(f"{checkpoint} is damaged: {found}; export another step")
    precision = device.dtype(config.policy.precision)
    model = load_causal_lm(config.policy.model, precision)
    module = PolicyModel(model)
    if config.policy.lora is not None:
        add_adapters(model, config.policy.lora, config.seed)
    _fill(module, whole_weights(checkpoint / "policy" / CHECKPOINT_TAG))
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    export_model(WholeModule(module), model, draft, write=True)
    load_tokenizer(config.policy.model).save_pretrained(draft)
    draft.rename(target)


@torch.no_grad()
def _fill(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Every parameter from the weights; a tied one may have either of its names there."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    parameters: dict[int, Any] = {id(parameter): parameter for parameter in module.parameters()}
    for key, known in names.items():
        there = [name for name in known if name in weights]
        if not there:
            raise RunError(f"the checkpoint holds no {known[0]}; it is of another model")
        parameters[key].copy_(weights[there[0]])
