"""A trained role in one process, with the weights of a checkpoint: without Ray, DeepSpeed's ranks, or an optimizer."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf import device
from rlhf.errors import RunError
from rlhf.models.heads import PolicyModel, ValueModel
from rlhf.models.loading import load_causal_lm, load_critic
from rlhf.ppo.config import PPOConfig
from rlhf.sound import SoundDirectory
from rlhf.training.deepspeed_engine import CHECKPOINT_TAG
from rlhf.training.lora import add_adapters
from rlhf.training.pickles import whole_weights
from rlhf.training.seal import foreign, verified


def trained_role(role: str, config: PPOConfig, checkpoint: Path | None) -> tuple[nn.Module, Any]:
    """The module of `policy` or `critic` and the transformers model in it, on the CPU in the precision of the config.
    Its weights are a checkpoint's, or, without one, those that the run begins with.

    Raises RunError for a checkpoint that is not as it was written, or is deleted meanwhile by its run; nothing of it
    is unpickled then.
    """
    weights = None if checkpoint is None else _weights(checkpoint, role)
    module, model = _begun(role, config)
    if weights is not None:
        _fill(module, weights)
    return module, model


def _begun(role: str, config: PPOConfig) -> tuple[nn.Module, Any]:
    if role == "critic":
        assert config.critic is not None
        model = load_critic(config.critic.model, device.dtype(config.critic.precision), config.seed)
        return ValueModel(model), model
    model = load_causal_lm(config.policy.model, device.dtype(config.policy.precision))
    module = PolicyModel(model, config.rollout.temperature)
    if config.policy.lora is not None:
        add_adapters(model, config.policy.lora, config.seed)
    return module, model


def _weights(checkpoint: Path, role: str) -> dict[str, Tensor]:
    """Those of a role, whole."""
    try:
        found = verified(checkpoint)
        wrong = f"is damaged: {found}" if isinstance(found, str) else foreign(checkpoint)
        if isinstance(found, SoundDirectory) and wrong is None:
            return whole_weights(found / role, CHECKPOINT_TAG)
    except (OSError, ValueError):
        if checkpoint.is_dir():
            raise
    if not checkpoint.is_dir():
        raise RunError(f"{checkpoint}: is not there any more: its run keeps only the newest; take one of those")
    raise RunError(f"{checkpoint} {wrong}; take another step")


@contextmanager
def in_silence() -> Iterator[None]:
    """Bars and warnings of transformers and DeepSpeed are not this command's output."""
    if not device.has_gpu():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed would say that it found none
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    for name in ("transformers", "DeepSpeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        warnings.simplefilter("ignore")
        yield


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
