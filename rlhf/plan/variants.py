"""Changes to a PPO config that save memory or use the GPUs otherwise, each through the config's own validation, so that
nothing is proposed that the platform refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.config import Config, merge, validate
from rlhf.errors import ConfigError
from rlhf.ppo.config import PPOConfig


@dataclass(frozen=True)
class Change:
    """What to write into a config, as a person would say it, and as an overlay."""

    words: str
    overlay: Mapping[str, Any]


def in_words(changes: Sequence[Change]) -> str:
    """All of them in one sentence."""
    return ", and ".join(each.words for each in changes)


def changed(config: PPOConfig, *changes: Change) -> PPOConfig | None:
    """The config with changes; None where it is then no valid one."""
    raw = config.model_dump(mode="json")
    for change in changes:
        raw = merge(raw, change.overlay)
    try:
        return validate(PPOConfig, raw)
    except ConfigError:
        return None


def sketched(config: PPOConfig, change: Change) -> PPOConfig:
    """The config with a change that nobody has validated, a tenth of the time: to plan with, not to propose."""
    return _overlaid(config, change.overlay)


def _overlaid(old: Any, new: Any) -> Any:
    """Sections of a config, and mappings, key by key; anything else is replaced."""
    if not isinstance(new, Mapping):
        return new
    if isinstance(old, Config):
        return old.model_copy(update={key: _overlaid(getattr(old, key), value) for key, value in new.items()})
    return {**old, **{key: _overlaid(old[key], value) for key, value in new.items()}}


def savings(config: PPOConfig) -> Iterator[Change]:
    """What to try when memory is short, what costs least first."""
    yield from _on_the_gpu(config)
    yield from _onto_the_host(config, _learners(config))
    yield from _adapters(config)


def resident_savings(config: PPOConfig) -> Iterator[Change]:
    """The same where nothing may go to host memory."""
    yield from _on_the_gpu(config)
    yield from _adapters(config)


def _on_the_gpu(config: PPOConfig) -> Iterator[Change]:
    learners = _learners(config)
    yield from bfloat16(config)
    if config.rollout.sleep:
        yield from _engine_share(config)
    for name in learners:
        settings = getattr(config, name)
        if not settings.gradient_checkpointing:
            yield Change(f"{name}.gradient_checkpointing: true", {name: {"gradient_checkpointing": True}})
        if settings.zero.stage < 3 and settings.resources.ranks > 1 and not settings.zero.offload_during_rollout:
            yield Change(f"{name}.zero.stage: 3", {name: {"zero": {"stage": 3}}})
        for tokens in (4096, 2048):
            if settings.micro_batch_tokens > tokens:
                yield Change(f"{name}.micro_batch_tokens: {tokens}", {name: {"micro_batch_tokens": tokens}})
    for name in ("reference", "reward"):
        settings = getattr(config, name)
        if settings.resources.ranks > 1:
            yield from divided(config, name)


def _adapters(config: PPOConfig) -> Iterator[Change]:
    if config.policy.lora is None:
        yield Change("policy.lora: {rank: 16}", {"policy": {"lora": {"rank": 16}}})


def onto_the_gpu(config: PPOConfig) -> Iterator[Change]:
    """What brings states back that learners keep in host memory."""
    for name in _learners(config):
        for key in ("offload_during_rollout", "offload_optimizer"):
            if getattr(getattr(config, name).zero, key):
                yield Change(f"{name}.zero.{key}: false", {name: {"zero": {key: False}}})


def bfloat16(config: PPOConfig) -> Iterator[Change]:
    """Half the bytes of every weight, where one is float32."""
    roles = [*_learners(config), "reference", "reward", "rollout"]
    if any(getattr(config, name).precision == "float32" for name in roles):
        overlay: dict[str, Any] = {name: {"precision": "bfloat16"} for name in roles}
        overlay["rollout"] |= {"weight_sync": {"max_gap": max(1.0, config.rollout.weight_sync.max_gap)}}
        yield Change("precision: bfloat16 of every role", overlay)


def divided(config: PPOConfig, role: str) -> Iterator[Change]:
    """A frozen model over its ranks, where it is whole on each; `role`: reference, reward or reward.NAME."""
    name, _, part = role.partition(".")
    settings = config.reward.learned()[part] if part else getattr(config, name)
    if not settings.divided:
        overlay = {"parts": {part: {"divided": True}}} if part else {"divided": True}
        words = f"{name}.parts.{part}" if part else name
        yield Change(f"{words}.divided: true", {name: overlay})


def _learners(config: PPOConfig) -> list[str]:
    return [name for name in ("policy", "critic") if getattr(config, name) is not None]


def _engine_share(config: PPOConfig) -> Iterator[Change]:
    for fraction in (0.6, 0.5, 0.4, 0.3, 0.2):
        if fraction < config.rollout.gpu_memory_fraction:
            words = f"rollout.gpu_memory_fraction: {fraction}"
            yield Change(words, {"rollout": {"gpu_memory_fraction": fraction}})


def _onto_the_host(config: PPOConfig, learners: list[str]) -> Iterator[Change]:
    for name in learners:
        settings = getattr(config, name)
        if settings.zero.stage and not settings.zero.offload_optimizer and settings.resources.gpus:
            yield Change(f"{name}.zero.offload_optimizer: true", {name: {"zero": {"offload_optimizer": True}}})
    if config.rollout.sleep:
        overlay = {name: {"zero": {"stage": 2, "offload_during_rollout": True}} for name in learners}
        yield Change("zero.offload_during_rollout: true of the learners, with stage 2", overlay)
