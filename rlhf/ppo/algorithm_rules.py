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


def adapters_or_some_layers(config: PPOConfig) -> None:
    policy = config.policy
    if policy.lora is not None and policy.frozen_layers:
        raise ValueError(
            f"policy.frozen_layers ({policy.frozen_layers}): policy.lora freezes every layer already; set 0, or null"
        )


def greedy_scores_are_in_the_units_of_the_others(config: PPOConfig) -> None:
    for name, part in config.reward.contributions().items():
        if config.ppo.advantage.greedy and part.normalise.kind == "batch":
            raise ValueError(
                f"reward: part {name}: normalise.kind batch would put greedy responses into other units than sampled "
                f"ones, which ppo.advantage.kind {config.ppo.advantage.kind} compares; use none or fixed"
            )


def stale_rollouts_are_corrected(config: PPOConfig) -> None:
    if config.loop.kind != "asynchronous":
        return
    if config.ppo.correction.kind == "none":
        raise ValueError(
            "loop.kind asynchronous: trains on rollouts of older weights and needs ppo.correction.kind token_tis, "
            "sequence_tis or icepop"
        )
    if config.rollout.sleep:
        raise ValueError(
            "loop.kind asynchronous: samples while the learners train, so engines need devices of their own; "
            "set rollout.sleep: false"
        )


def a_response_is_worth_something(config: PPOConfig) -> None:
    if not config.reward.contributions() and config.environment is None:
        raise ValueError("reward: needs a model, or parts, or an environment that pays: a score comes from somewhere")


def engines_that_sleep_sample_once_a_step(config: PPOConfig) -> None:
    """They give up their weights after a rollout, and get new ones with the next step."""
    for several, what in (
        (config.ppo.groups.kind == "informative", "ppo.groups.kind informative"),
        (config.ppo.advantage.greedy, f"ppo.advantage.kind {config.ppo.advantage.kind}"),
    ):
        if config.rollout.sleep and several:
            raise ValueError(f"rollout.sleep: {what} samples more than once a step; give engines devices of their own")


RULES = (
    batch_holds_minibatches, critic_where_one_is_used, groups_are_large_enough, informative_groups_have_members,
    correction_needs_the_full_distribution, buffer_lies_before_the_limit, warmup_leaves_steps_for_the_policy,
    text_is_trained_as_it_reads, adapters_or_some_layers,
    greedy_scores_are_in_the_units_of_the_others, stale_rollouts_are_corrected,
    a_response_is_worth_something, engines_that_sleep_sample_once_a_step,
)
