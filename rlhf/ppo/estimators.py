"""From scores and penalties to token rewards, advantages and returns: one object per kind of estimator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rlhf.objectives.advantages import gae, token_rewards, whiten
from rlhf.objectives.group import greedy_baseline, group_mean_baseline, group_relative, leave_one_out
from rlhf.objectives.masks import inside
from rlhf.objectives.returns import returns_to_go
from rlhf.ppo import algorithm


@dataclass(frozen=True)
class Scored:
    """A rollout batch before its advantages.

    scores [B], penalties for length and truncation taken off; turn_rewards [B, T], what an environment paid on the way,
    0 without one; kl [B, T], what the reward pays per token: β d_t, or
    0 where the KL stands in the loss; values [B, T], 0 without a critic; mask [B, T] bool; groups [B] int64, equal for
    responses to one prompt; greedy_scores [B], 0 where nobody asked for them; `clip` bounds what is placed on a token.
    """

    scores: Tensor
    turn_rewards: Tensor
    kl: Tensor
    values: Tensor
    mask: Tensor
    groups: Tensor
    greedy_scores: Tensor
    clip: float

    @property
    def whole(self) -> Tensor:
        """Score and everything paid on the way, [B]: what a method compares that looks at whole responses."""
        return self.scores + self.turn_rewards.sum(dim=1)

    def paid(self) -> Tensor:
        """r_t with the scores at the end and what was paid on the way where it was; [B, T]."""
        return self.rewards(self.scores) + inside(self.mask, self.turn_rewards)

    def rewards(self, scores: Tensor) -> Tensor:
        """r_t with `scores`, clipped, on the last response token; [B, T]."""
        return token_rewards(scores.clamp(-self.clip, self.clip), self.kl, self.mask, 1.0)


@dataclass(frozen=True)
class Estimate:
    """rewards, advantages and returns (what a critic learns), [B, T] float32, 0 outside the mask."""

    rewards: Tensor
    advantages: Tensor
    returns: Tensor


class Estimator(Protocol):
    """Turns scores into advantages."""

    def __call__(self, scored: Scored) -> Estimate: ...


@dataclass(frozen=True)
class GaeEstimator:
    """Generalized advantage estimation, whitened or not."""

    gamma: float
    lam: float
    whitens: bool

    def __call__(self, scored: Scored) -> Estimate:
        rewards = scored.paid()
        advantages, returns = gae(rewards, scored.values, scored.mask, self.gamma, self.lam)
        return Estimate(rewards, whiten(advantages, scored.mask) if self.whitens else advantages, returns)


@dataclass(frozen=True)
class ReturnEstimator:
    """Returns of the baselined score and the KL penalties behind each token.

    Where the KL stands in the loss, and γ is 1, that is the baselined score on every token of the response.
    """

    baselined: Callable[[Scored], Tensor]
    whitens: bool = False

    def __call__(self, scored: Scored) -> Estimate:
        rewards = scored.rewards(self.baselined(scored))
        returns = returns_to_go(rewards, scored.mask, 1.0)
        return Estimate(rewards, whiten(returns, scored.mask) if self.whitens else returns, returns)


@dataclass(frozen=True)
class WhitenedReturns:
    """REINFORCE++: what is paid behind each token, whitened."""

    gamma: float

    def __call__(self, scored: Scored) -> Estimate:
        rewards = scored.paid()
        returns = returns_to_go(rewards, scored.mask, self.gamma)
        return Estimate(rewards, whiten(returns, scored.mask), returns)


class LeaveOneOutEstimator:
    """RLOO: one action is a whole response, so its score, KL included, is what is compared."""

    def __call__(self, scored: Scored) -> Estimate:
        whole = scored.whole - torch.where(scored.mask, scored.kl, torch.zeros_like(scored.kl)).sum(dim=1)
        baselined = leave_one_out(whole, scored.groups).clamp(-scored.clip, scored.clip)
        rewards = token_rewards(baselined, torch.zeros_like(scored.kl), scored.mask, 0.0)
        returns = returns_to_go(rewards, scored.mask, 1.0)
        return Estimate(rewards, returns, returns)


def estimator_of(config: algorithm.Advantage) -> Estimator:
    """The estimator that a config section describes."""
    return _BUILDERS[type(config)](config)


_BUILDERS: dict[type, Callable[..., Estimator]] = {
    algorithm.Gae: lambda config: GaeEstimator(config.gamma, config.gae_lambda, config.whiten),
    algorithm.Grpo: lambda _: ReturnEstimator(lambda scored: group_relative(scored.whole, scored.groups, scale=True)),
    algorithm.DrGrpo: lambda _: ReturnEstimator(
        lambda scored: group_relative(scored.whole, scored.groups, scale=False)
    ),
    algorithm.Rloo: lambda _: LeaveOneOutEstimator(),
    algorithm.ReinforcePlusPlus: lambda config: WhitenedReturns(config.gamma),
    algorithm.ReinforcePlusPlusBaseline: lambda _: ReturnEstimator(
        lambda scored: group_mean_baseline(scored.whole, scored.groups), whitens=True
    ),
    algorithm.ReMax: lambda _: ReturnEstimator(
        lambda scored: greedy_baseline(scored.whole, scored.greedy_scores)
    ),
}
