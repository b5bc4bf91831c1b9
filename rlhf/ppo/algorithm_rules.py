"""Which parts of a method go together, checked on the config before anything starts. Rules raise ValueError."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlhf.ppo.config import PPOConfig


def batch_holds_minibatches(config: PPOConfig) -> None:
    rows, parts = config.responses_per_step, config.ppo.minibatches
    if parts > rows:
        raise ValueError(f"ppo.minibatches ({parts}) is larger than the {rows} responses of a step")


def critic_where_one_is_used(config: PPOConfig) -> None:
    kind = config.ppo.advantage.kind
    if config.ppo.advantage.critic and config.critic is None:
        raise ValueError(f"critic: ppo.advantage.kind {kind} needs one; name its model under critic.model")
    if not config.ppo.advantage.critic and config.critic is not None:
        raise ValueError(f"critic: ppo.advantage.kind {kind} uses none; set critic: null")


def groups_are_large_enough(config: PPOConfig) -> None:
    advantage, size = config.ppo.advantage, config.rollout.responses_per_prompt
    if size < advantage.group:
        raise ValueError(
            f"rollout.responses_per_prompt ({size}): ppo.advantage.kind {advantage.kind} compares the responses to a "
            f"prompt and needs {advantage.group} or more"
        )


def informative_groups_have_members(config: PPOConfig) -> None:
    if config.ppo.groups.kind == "informative" and config.rollout.responses_per_prompt < 2:
        raise ValueError("ppo.groups.kind informative: needs rollout.responses_per_prompt 2 or more")
    if config.ppo.groups.kind == "informative" and config.ppo.advantage.greedy:
        raise ValueError(f"ppo.groups.kind informative: has no use with ppo.advantage.kind {config.ppo.advantage.kind}")


def correction_needs_the_full_distribution(config: PPOConfig) -> None:
    rollout, kind = config.rollout, config.ppo.correction.kind
    if kind != "none" and (rollout.top_p != 1.0 or rollout.top_k != -1):
        raise ValueError(
            f"ppo.correction.kind {kind}: needs rollout.top_p 1 and top_k -1; with a part of the vocabulary the ratio "
            f"of learner and sampler is biased by the probability of that part"
        )


def buffer_lies_before_the_limit(config: PPOConfig) -> None:
    penalty, limit = config.reward.length_penalty, config.rollout.max_new_tokens
    if penalty.kind == "soft_overlong" and penalty.buffer > limit:
        raise ValueError(
            f"reward.length_penalty.buffer ({penalty.buffer}) is larger than rollout.max_new_tokens ({limit})"
        )


def warmup_leaves_steps_for_the_policy(config: PPOConfig) -> None:
    idle = config.ppo.critic_warmup_steps
    if idle and config.critic is None:
        raise ValueError(f"ppo.critic_warmup_steps ({idle}): the run has no critic; set 0")
    if idle >= config.steps:
        raise ValueError(f"ppo.critic_warmup_steps ({idle}): none of the {config.steps} steps would train the policy")


def text_is_trained_as_it_reads(config: PPOConfig) -> None:
    if config.ptx is None:
        return
    blocks, ranks = config.ptx.blocks_per_step, config.policy.resources.ranks
    if blocks % ranks:
        raise ValueError(f"ptx.blocks_per_step ({blocks}): not a multiple of policy.resources.ranks ({ranks})")
    if config.rollout.temperature != 1.0:
        raise ValueError(
            f"ptx: needs rollout.temperature 1 (got {config.rollout.temperature:g}), at which the policy's "
            f"log-probabilities are taken"
        )


RULES = (
    batch_holds_minibatches, critic_where_one_is_used, groups_are_large_enough, informative_groups_have_members,
    correction_needs_the_full_distribution, buffer_lies_before_the_limit, warmup_leaves_steps_for_the_policy,
    text_is_trained_as_it_reads,
)
