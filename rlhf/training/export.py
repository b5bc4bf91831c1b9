"""A checkpoint's policy as a plain transformers directory, without Ray and without the ranks that wrote it."""

from __future__ import annotations

import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf import device
from rlhf.artifacts import sync, sync_tree
from rlhf.errors import RunError
from rlhf.models.heads import PolicyModel
from rlhf.models.loading import load_causal_lm, load_tokenizer
from rlhf.ppo.config import PPOConfig
from rlhf.sound import SoundDirectory
from rlhf.training.deepspeed_engine import CHECKPOINT_TAG
from rlhf.training.lora import add_adapters
from rlhf.training.pickles import whole_weights
from rlhf.training.seal import foreign, verified
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

    Raises RunError for a checkpoint that is not as it was written, or is deleted meanwhile by its run; nothing of it
    is unpickled then.
    """
    if target.exists():
        raise RunError(f"{target}: exists; give a directory that does not")
    with _silence():
        _export(config, checkpoint, target)


def _export(config: PPOConfig, checkpoint: Path, target: Path) -> None:
    weights = _weights(checkpoint)
    precision = device.dtype(config.policy.precision)
    model = load_causal_lm(config.policy.model, precision)
    module = PolicyModel(model)
    if config.policy.lora is not None:
        add_adapters(model, config.policy.lora, config.seed)
    _fill(module, weights)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    export_model(WholeModule(module), model, draft, write=True)
    load_tokenizer(config.policy.model).save_pretrained(draft)
    sync_tree(draft)
    draft.rename(target)
    sync(target.parent)


def _weights(checkpoint: Path) -> dict[str, Tensor]:
    """The policy's, whole."""
    try:
        found = verified(checkpoint)
        wrong = f"is damaged: {found}" if isinstance(found, str) else foreign(checkpoint)
        if isinstance(found, SoundDirectory) and wrong is None:
            return whole_weights(found / "policy", CHECKPOINT_TAG)
    except (OSError, ValueError):
        if checkpoint.is_dir():
            raise
    if not checkpoint.is_dir():
        raise RunError(f"{checkpoint}: is not there any more: its run keeps only the newest; export one of those")
    raise RunError(f"{checkpoint} {wrong}; export another step")


@contextmanager
def _silence() -> Iterator[None]:
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
