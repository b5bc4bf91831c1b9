"""What is checked before any actor starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.batch import Prompt
from rlhf.errors import DataError
from rlhf.models.loading import (
    check_reward_model,
    check_same_tokenizer,
    check_tokenizer,
    load_config,
    load_tokenizer,
    require_chat_template,
)
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop_config import FixedBatch, Replay
from rlhf.ppo.prompts import FixedPrompts, PromptStream, read_prompts
from rlhf.ppo.saved import rollout_file
from rlhf.rewards.config import ModelReward
from rlhf.sampling.options import context_sizes


@dataclass(frozen=True)
class Plan:
    """What is known of a run before any actor starts."""

    prompts: PromptStream
    pad_token: int
    end_token: int
    max_model_len: int


def prepare(config: PPOConfig) -> Plan:
    """Check every input before anything starts. Raises ModelError, DataError or ConfigError."""
    tokenizer = load_tokenizer(config.policy.model)
    require_chat_template(tokenizer, config.policy.model)
    model = load_config(config.policy.model)
    check_tokenizer(tokenizer, model, config.policy.model)
    sizes = {config.reference.model: load_config(config.reference.model)}
    sizes.update({model.model: check_reward_model(model.model) for model in config.reward.learned().values()})
    if config.critic is not None:
        sizes[config.critic.model] = load_config(config.critic.model)
    for source, found in sizes.items():
        check_tokenizer(tokenizer, found, source)
        check_same_tokenizer(tokenizer, source, config.policy.model)
    max_model_len, room = context_sizes(config.rollout, model, "rollout")
    prompts = read_prompts(config.prompts, tokenizer, min(room, config.rollout.max_prompt_tokens or room))
    if not prompts:
        raise DataError(f"{config.prompts}: holds no prompts")
    if isinstance(config.loop, Replay):
        require_rollouts(Path(config.loop.rollouts), config.steps)
    require_scored(prompts, config)
    check_user_code(config, tokenizer)
    rollout = config.rollout
    kind = FixedPrompts if isinstance(config.loop, FixedBatch) else PromptStream
    stream = kind(prompts, rollout.prompts_per_step, config.seed, rollout.responses_per_prompt)
    return Plan(stream, tokenizer.pad_token_id, tokenizer.eos_token_id, max_model_len)


def require_rollouts(directory: Path, steps: int) -> None:
    """Raises DataError when a step has no saved rollout."""
    missing = [step for step in range(steps) if not rollout_file(directory, step).is_file()]
    if missing:
        raise DataError(
            f"loop.rollouts: {directory} has no {rollout_file(directory, missing[0]).name}, and steps = {steps} needs "
            f"one a step; lower steps to {missing[0]}, or name the directory `rollouts` of a run with rollout.save"
        )


def require_scored(prompts: Sequence[Prompt], config: PPOConfig) -> None:
    """Raises DataError when no part of the reward scores a data source that the prompts come from."""
    found, parts = sorted({prompt.source for prompt in prompts}), config.reward.contributions().values()
    if config.environment is not None:
        return
    without = [source for source in found if not any(part.applies_to([source])[0] for part in parts)]
    if without:
        named = ", ".join(source or "(none)" for source in without)
        raise DataError(
            f"{config.prompts}: no part of the reward scores prompts whose source is {named}; add a part, or name the "
            f"source in `sources` of one"
        )


def check_user_code(config: PPOConfig, tokenizer: Any) -> None:
    """Raises ConfigError when a part of the reward, or the environment, names what is not there. The user's code runs
    in processes of its own, as later."""
    from rlhf.environments.factory import environments_of
    from rlhf.environments.turns import TurnTemplate
    from rlhf.rewards.limits import limits_of
    from rlhf.rewards.scorers import scorer_of

    limits = limits_of(config.reward)
    for name, part in config.reward.parts.items():
        if not isinstance(part, ModelReward):
            scorer_of(part, f"reward.parts.{name}", limits).close()
    if config.environment is not None:
        TurnTemplate(tokenizer, config.environment.observation_role)
        environments_of(config.environment, limits.hidden).close()
