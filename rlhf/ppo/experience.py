"""From a scored rollout to an experience: rewards with KL, advantages, returns. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.batch import Experience, Rollout
from rlhf.metrics import Max, Mean, Metrics
from rlhf.objectives.advantages import explained_variance
from rlhf.objectives.correction import Correction, icepop, mismatch, sequence_tis, token_tis
from rlhf.objectives.group import informative_groups, without
from rlhf.objectives.kl import kl_estimate
from rlhf.objectives.length import linear_length_penalty, overlong_filter, soft_overlong_penalty
from rlhf.objectives.masks import inside, masked_sum
from rlhf.ppo import algorithm
from rlhf.ppo.config import (
    LinearLengthPenalty,
    OverrideScore,
    PPOConfig,
    RewardConfig,
    SoftOverlongPenalty,
    SubtractPenalty,
)
from rlhf.ppo.estimators import Scored, estimator_of


def shortened(scores: Tensor, lengths: Tensor, config: PPOConfig) -> Tensor:
    """Scores after the length penalty; scores [B] float32, lengths [B] int64, tokens of the responses."""
    penalty = config.reward.length_penalty
    if isinstance(penalty, LinearLengthPenalty):
        return scores + linear_length_penalty(lengths, penalty.per_token, penalty.free)
    if isinstance(penalty, SoftOverlongPenalty):
        return scores + penalty.scale * soft_overlong_penalty(lengths, config.longest_response, penalty.buffer)
    return scores


def penalised(scores: Tensor, finished: Tensor, config: RewardConfig) -> Tensor:
    """Scores after the treatment of responses that the length limit cut; scores [B] float32, finished [B] bool."""
    penalty = config.missing_eos
    if isinstance(penalty, SubtractPenalty):
        return torch.where(finished, scores, scores - penalty.amount)
    if isinstance(penalty, OverrideScore):
        return torch.where(finished, scores, torch.full_like(scores, penalty.score))
    return scores


def penalised_scores(rollout: Rollout, scores: Tensor, config: PPOConfig) -> Tensor:
    """Scores [B] after both penalties."""
    return penalised(shortened(scores, rollout.response_mask.sum(dim=1), config), rollout.finished, config.reward)


@dataclass(frozen=True)
class Passes:
    """What the roles computed for a rollout, float32: logprobs, ref_logprobs and values [B, T] (values are 0 without
    a critic), scores and greedy_scores [B] (0 where nobody asked for greedy ones), groups [B] int64, and failed [B]
    bool: rows without a score, which leave the loss and the comparison within their group."""

    scores: Tensor
    failed: Tensor
    logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    groups: Tensor
    greedy_scores: Tensor


def make_experience(rollout: Rollout, passes: Passes, kl_coef: float, config: PPOConfig) -> Experience:
    """Rewards, advantages and returns of a whole rollout batch; `kl_coef` is β, per nat."""
    method, everything = config.ppo, rollout.response_mask
    trained = overlong_filter(everything, rollout.finished) if method.overlong_filter else everything
    trained = trained & ~passes.failed[:, None]
    in_reward = kl_coef if config.kl.place == "reward" else 0.0
    kl = in_reward * kl_estimate(passes.logprobs, passes.ref_logprobs, config.kl.estimator)
    scores = penalised_scores(rollout, passes.scores, config)
    groups = without(passes.failed, passes.groups)
    scored = Scored(
        scores, rollout.turn_rewards, kl, passes.values, trained, groups, passes.greedy_scores, config.reward.clip
    )
    estimate = estimator_of(method.advantage)(scored)
    return Experience(
        rollout.tokens, rollout.attention_mask, trained, passes.logprobs, passes.ref_logprobs, passes.values,
        estimate.rewards, estimate.advantages, estimate.returns,
        correct(method.correction, passes.logprobs, rollout.sampler_logprobs, trained).weights,
    )


def correct(config: algorithm.Correction, logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Correction:
    """The weights of the token terms, [B, T] float32; 1 where nothing is corrected."""
    if isinstance(config, algorithm.TokenTis):
        return token_tis(logprobs, sampler_logprobs, mask, config.cap)
    if isinstance(config, algorithm.SequenceTis):
        return sequence_tis(logprobs, sampler_logprobs, mask, config.cap)
    if isinstance(config, algorithm.IcePop):
        return icepop(logprobs, sampler_logprobs, mask, config.low, config.high)
    return Correction(mask.float(), torch.zeros(()))


def describe(rollout: Rollout, passes: Passes, experience: Experience, config: PPOConfig) -> Metrics:
    """What a step says of its rollout: scores, lengths, KL (k1), and what its method watches."""
    mask = rollout.response_mask
    rows, tokens = float(len(rollout)), float(mask.sum())
    kl = masked_sum(passes.logprobs - passes.ref_logprobs, mask)
    return {
        **describe_rollout(rollout, passes.scores, passes.failed, config),
        "kl/per_token": Mean(float(kl), tokens),
        "kl/per_response": Mean(float(kl), rows),
        **_of_method(rollout, passes, experience, config),
        **_of_mismatch(rollout, passes, experience, config),
    }


def describe_rollout(rollout: Rollout, scores: Tensor, failed: Tensor, config: PPOConfig) -> Metrics:
    """What is known before a learner has seen a rollout; scores [B] float32, failed [B] bool."""
    lengths, rows = rollout.response_mask.sum(dim=1).float(), float(len(rollout))
    found = {
        "reward/score": Mean(float(scores[~failed].sum()), float((~failed).sum())),
        "response/length_mean": Mean(float(lengths.sum()), rows),
        "response/length_max": Max(float(lengths.max())),
        "response/truncated_fraction": Mean(float((~rollout.finished).sum()), rows),
    }
    paid = rollout.turn_rewards.sum(dim=1)
    return {**found, "reward/turns": Mean(float(paid.sum()), rows)} if config.environment is not None else found


def describe_gap(rollout: Rollout, logprobs: Tensor) -> Metrics:
    """How far the sampler's log-probabilities are from the learner's, nats; logprobs [B, T] float32."""
    gap = inside(rollout.response_mask, rollout.sampler_logprobs - logprobs).abs()
    return {
        "sync/logprob_gap_max": Max(float(gap.max())),
        "sync/logprob_gap_mean": Mean(float(gap.sum()), float(rollout.response_mask.sum())),
    }


def _of_method(rollout: Rollout, passes: Passes, experience: Experience, config: PPOConfig) -> Metrics:
    method = config.ppo.advantage
    if method.critic:
        explained = explained_variance(experience.values, experience.returns, experience.response_mask)
        return {"value/explained_variance": Mean(explained, 1.0)}
    if method.greedy:
        scored = passes.greedy_scores[~passes.failed]
        return {"reward/greedy_score": Mean(float(scored.sum()), float(len(scored)))}
    if method.group > 1:
        whole = passes.scores + rollout.turn_rewards.sum(dim=1)
        informative = informative_groups(whole, without(passes.failed, passes.groups))
        return {"group/informative_fraction": Mean(float(informative.sum()), float(len(informative)))}
    return {}


def _of_mismatch(rollout: Rollout, passes: Passes, experience: Experience, config: PPOConfig) -> Metrics:
    """How far the sampler's distribution is from the learner's, where a correction acts on it."""
    if config.ppo.correction.kind == "none":
        return {}
    mask = experience.response_mask
    found, tokens = mismatch(passes.logprobs, rollout.sampler_logprobs, mask), float(mask.sum())
    correction = correct(config.ppo.correction, passes.logprobs, rollout.sampler_logprobs, mask)
    return {
        "mismatch/kl_k1": Mean(float(found.k1), tokens),
        "mismatch/kl_k3": Mean(float(found.k3), tokens),
        "mismatch/ratio_max": Max(float(found.ratio_max)),
        "mismatch/changed_fraction": Mean(float(correction.changed), tokens),
    }


def kl_per_response(rollout: Rollout, experience: Experience) -> Tensor:
    """KL to the reference summed over each response (k1), also one that left the loss; [B] float32, nats."""
    return inside(rollout.response_mask, experience.old_logprobs - experience.ref_logprobs).sum(dim=1)
