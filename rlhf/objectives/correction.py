"""Importance correction for a sampler whose probabilities are not quite the learner's.

The engine that samples computes with other kernels and precisions than the one that trains (and, in an asynchronous
loop, with older weights), so that responses come from π_sampler and not from π_old. The ratio
w_t = π_old(x_t) / π_sampler(x_t), bounded, multiplies the terms of the policy loss. It holds for the full
distribution at the training temperature alone: top-p or top-k sampling would bias it by the mass they keep.

Every function takes old_logprobs (learner) and sampler_logprobs [B, T] float32, nats, and mask [B, T] bool.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.objectives.masks import inside
from rlhf.objectives.policy import LOG_RATIO_CLAMP


@dataclass(frozen=True)
class Correction:
    """weights [B, T] float32 without gradient, 0 outside the mask; `changed`, how many tokens of the mask have their
    ratio clipped or dropped, a float32 scalar."""

    weights: Tensor
    changed: Tensor


@dataclass(frozen=True)
class Mismatch:
    """How far the sampler is from the learner: float32 scalars without gradient.

    k1 and k3 are sums over the tokens of two estimates of KL(π_sampler ‖ π_old) in nats, −log w and
    w − 1 − log w; ratio_max is the largest w, 0 without tokens.
    """

    k1: Tensor
    k3: Tensor
    ratio_max: Tensor


def token_tis(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Correction:
    """Truncated importance sampling per token, min(w_t, C).

    Source: Yao et al. 2025, "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training" (blog);
    truncation: Ionides 2008, "Truncated Importance Sampling".
    """
    ratio = _ratio(_log_ratio(old_logprobs, sampler_logprobs, mask))
    return _correction(ratio.clamp(max=cap), ratio, mask)


def sequence_tis(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, cap: float) -> Correction:
    """Truncated importance sampling per response: min(Π_t w_t, C) on each of its tokens.

    Unbiased up to the cap where the token ratio is not, with a variance that grows with the length. `changed` counts
    the tokens of the truncated responses. Source: Yao et al. 2025, as above.
    """
    log_ratio = _log_ratio(old_logprobs, sampler_logprobs, mask)
    ratio = _ratio(log_ratio.sum(dim=1, keepdim=True)).expand(mask.shape)
    return _correction(ratio.clamp(max=cap), ratio, mask)


def icepop(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, low: float, high: float) -> Correction:
    """w_t where low ≤ w_t ≤ high, else 0: a token on which the engines disagree leaves the loss.

    It still counts as a token of the reduction. Source: Ring-1T, arXiv:2510.18855.
    """
    ratio = _ratio(_log_ratio(old_logprobs, sampler_logprobs, mask))
    kept = torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))
    return _correction(kept, ratio, mask)


def mismatch(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Mismatch:
    """Token sums of the KL estimates and the largest ratio; log-ratios are clamped to ±20 nats."""
    log_ratio = _log_ratio(old_logprobs, sampler_logprobs, mask).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    return Mismatch(
        -log_ratio.sum(), (torch.expm1(log_ratio) - log_ratio).sum(), inside(mask, log_ratio.exp()).amax()
    )


def _log_ratio(old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor) -> Tensor:
    return (inside(mask, old_logprobs) - inside(mask, sampler_logprobs)).detach()


def _ratio(log_ratio: Tensor) -> Tensor:
    return log_ratio.clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP).exp()


def _correction(weights: Tensor, ratio: Tensor, mask: Tensor) -> Correction:
    return Correction(inside(mask, weights).float(), (mask & (weights != ratio)).float().sum())
