"""Policy losses as one term per token, to be minimised; how terms become a loss is in `reduction`.

Notation: ρ_t = exp(log π_t − log π_old,t), clamped to e^±20; A_t the advantage; every function takes
logprobs (which carries the gradient), old_logprobs and advantages [B, T] float32 and mask [B, T] bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.objectives.masks import inside

LOG_RATIO_CLAMP = 20.0  # e^20 is far outside any clip range and still finite in float32


@dataclass(frozen=True)
class PolicyTerms:
    """A policy loss before its reduction.

    terms [B, T] float32, 0 outside the mask, carry the gradient. The diagnostics are sums over the tokens of
    the mask, float32 scalars without gradient: how many tokens the clip acted on, and ρ − 1 − log ρ, an
    estimate of KL(π_old ‖ π) in nats.
    """

    terms: Tensor
    clipped: Tensor
    approx_kl: Tensor


def ppo_terms(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> PolicyTerms:
    """−min(ρA, clip(ρ, 1−ε_low, 1+ε_high) A); with a dual clip c, at most −cA where A < 0.

    Sources: Schulman et al. 2017, arXiv:1707.06347, equation 7; separate upper bound ("clip-higher"): DAPO,
    arXiv:2503.14476, equation 10; dual clip: Ye et al. 2020, arXiv:1912.09729, equation 5.
    """
    log_ratio, advantages = _log_ratio(logprobs, old_logprobs, mask), inside(mask, advantages)
    ratio = _ratio(log_ratio)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    objective = torch.minimum(unclipped, clipped)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return _with_diagnostics(-objective, clipped < unclipped, log_ratio)


def gspo_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> PolicyTerms:
    """−min(sA, clip(s, 1−ε_low, 1+ε_high) A) with one ratio per response, s = exp(mean_t (log π_t − log π_old,t)).

    The term stands on every token of the response, so the paper's objective is the reduction
    `sequence_mean_token_mean`. The gradient flows through s. Clip ranges are far smaller than PPO's, as s is a
    geometric mean. `clipped` counts the tokens of clipped responses.
    Source: Zheng et al. 2025, arXiv:2507.18071, equation 5.
    """
    log_ratio, advantages = _log_ratio(logprobs, old_logprobs, mask), inside(mask, advantages)
    lengths = mask.sum(dim=1, keepdim=True).clamp(min=1)
    ratio = _ratio(log_ratio.sum(dim=1, keepdim=True) / lengths)
    unclipped = ratio * advantages
    clipped = ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantages
    return _with_diagnostics(-torch.minimum(unclipped, clipped), clipped < unclipped, log_ratio)


def cispo_terms(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> PolicyTerms:
    """−stop_gradient(clip(ρ, 1−ε_low, 1+ε_high)) A log π: the clip bounds a token's weight, never removes its gradient.

    ε_low = 1 is no lower bound, as in the paper's experiments. `clipped` counts the tokens outside the range,
    whatever the sign of A. Source: MiniMax-M1, arXiv:2506.13585, equations 4 and 5.
    """
    log_ratio, advantages = _log_ratio(logprobs, old_logprobs, mask), inside(mask, advantages)
    ratio = _ratio(log_ratio.detach())
    weight = ratio.clamp(1.0 - clip_low, 1.0 + clip_high)
    return _with_diagnostics(-weight * advantages * inside(mask, logprobs), mask & (weight != ratio), log_ratio)


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    return inside(mask, logprobs) - inside(mask, old_logprobs)


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()


def _with_diagnostics(terms: Tensor, is_clipped: Tensor, log_ratio: Tensor) -> PolicyTerms:
    with torch.no_grad():
        return PolicyTerms(terms, is_clipped.float().sum(), (torch.expm1(log_ratio) - log_ratio).sum())
