"""Builds a learner for a role."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from rlhf import device
from rlhf.errors import ConfigError
from rlhf.models.heads import PolicyModel, ValueModel
from rlhf.models.loading import load_causal_lm, load_critic
from rlhf.ppo.config import LearnerConfig, PPOConfig
from rlhf.ppo.objectives import CriticObjective, PolicyObjective
from rlhf.training.average import WeightAverage
from rlhf.training.deepspeed_engine import DeepSpeedEngine, deepspeed_config, place
from rlhf.training.learner import Extras, Learner, Objective
from rlhf.training.left_out import LeftOut
from rlhf.training.lora import add_adapters
from rlhf.training.ptx import read_ptx


def build_learner(role: str, config: PPOConfig, work: Path) -> tuple[Learner, Any]:
    """The learner of `policy` or `critic`, and the transformers model whose parameters it trains.

    `work` is the run's directory: blocks of pretraining text are read there, and batches that fail are written there.
    """
    settings = config.policy if role == "policy" else config.critic
    assert settings is not None
    objective: Objective
    with _partitioned_loading(settings):
        if role == "policy":
            model = load_causal_lm(settings.model, device.dtype(settings.precision))
            module: nn.Module = PolicyModel(model, config.rollout.temperature)
            objective = PolicyObjective(config.ppo, config.kl)
        else:
            model = load_critic(settings.model, device.dtype(settings.precision), config.seed)
            module = ValueModel(model)
            objective = CriticObjective(config.ppo)
    _without_dropout(model)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    freeze(model, settings)
    if role == "policy" and config.policy.lora is not None:
        add_adapters(model, config.policy.lora, config.seed)
    total_steps = config.optimizer_steps("policy" if role == "policy" else "critic")
    engine = DeepSpeedEngine(place(module, settings.zero.stage), settings, total_steps)
    decay = config.policy.ema_decay if role == "policy" else None
    average = WeightAverage(engine.module, decay) if decay is not None else None
    ptx = read_ptx(config.ptx, work, config.seed) if config.ptx is not None and role == "policy" else None
    left_out = LeftOut(config.not_finite, role, objective.scope, work / "failures")
    extras = Extras(left_out, average, ptx)
    return Learner(engine, objective, settings, config.ppo, config.longest_response, extras), model


def freeze(model: Any, settings: LearnerConfig) -> None:
    """Keep the lowest layers as they are, and the input embeddings below them unless they are the output's, too.

    Raises ConfigError when the model would have no layer left to train.
    """
    if not settings.frozen_layers:
        return
    layers = model.get_decoder().layers
    if settings.frozen_layers >= len(layers):
        raise ConfigError(
            f"frozen_layers: {settings.frozen_layers} of {len(layers)} layers of {settings.model} leave none to train"
        )
    below = [*layers[: settings.frozen_layers]]
    if not getattr(model.config, "tie_word_embeddings", False):
        below.append(model.get_input_embeddings())
    for module in below:
        module.requires_grad_(False)


@contextmanager
def _partitioned_loading(settings: LearnerConfig) -> Iterator[None]:
    """Under ZeRO-3, let transformers split the weights over the ranks while it reads them."""
    if settings.zero.stage != 3:
        yield
        return
    from transformers.integrations import HfDeepSpeedConfig

    keep = HfDeepSpeedConfig(deepspeed_config(settings))  # in force while it lives
    try:
        yield
    finally:
        del keep


def _without_dropout(model: Any) -> None:
    """The log-probabilities of sampling and training must come from one function."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0
