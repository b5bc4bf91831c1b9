"""Per-token estimates of the KL divergence between policy and reference, and the coefficient's control."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.objectives.names import KlEstimator

CLAMP = 10.0  # nats; one wild token must not decide a step
# Beyond it every estimate lies outside ±CLAMP anyway, and e^x would overflow: 0 · ∞ in the backward pass.
LOG_RATIO_CLAMP = 20.0


def kl_estimate(logprobs: Tensor, ref_logprobs: Tensor, estimator: KlEstimator) -> Tensor:
    """Estimate KL(policy ‖ reference) from samples of the policy.

    With x = log π − log π_ref: k1 = x, k2 = x²/2, k3 = e^{−x} − 1 + x, clamped to ±10 nats.
    Source: J. Schulman, "Approximating KL Divergence" (2020).

    Args: two tensors of one shape, float32, nats. Returns: the same shape, nats.
    """
    x = (logprobs - ref_logprobs).clamp(-LOG_RATIO_CLAMP, LOG_RATIO_CLAMP)
    if estimator == "k1":
        estimate = x
    elif estimator == "k2":
        estimate = 0.5 * x.square()
    elif estimator == "k3":
        estimate = torch.expm1(-x) + x
    else:
        raise ValueError(f"KL estimator '{estimator}': choose k1, k2 or k3")
    return estimate.clamp(-CLAMP, CLAMP)


def adapt_coefficient(coefficient: float, kl: float, target: float, horizon: int, samples: int) -> float:
    """The next KL coefficient of the proportional controller.

    β ← β (1 + clip(KL / target − 1, ±0.2) · n / horizon), with KL in nats per response and n responses
    seen since the last change. Source: Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1.0, -0.2), 0.2)
    return coefficient * (1.0 + error * samples / horizon)
