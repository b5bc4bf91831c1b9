"""From sequence scores and per-token KL to rewards, advantages and returns."""

from __future__ import annotations

import torch
from torch import Tensor

WHITENING_EPSILON = 1e-8


def last_true(mask: Tensor) -> Tensor:
    """Index of the last True of each row; mask [B, T] bool, result [B] int64; 0 where a row has none."""
    positions = torch.arange(mask.shape[1], device=mask.device)
    return torch.where(mask, positions, torch.zeros_like(positions)).amax(dim=1)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, kl_coef: float) -> Tensor:
    """r_t = −β d_t + score · 1[t = last response token], and 0 outside the mask.

    Args: scores [B] float32; kl [B, T] float32, nats; mask [B, T] bool. Returns [B, T] float32.
    A row without response tokens has no reward.
    """
    rewards = torch.where(mask, -kl_coef * kl, torch.zeros_like(kl))
    placed = torch.where(mask.any(dim=1), scores, torch.zeros_like(scores))
    return rewards.scatter_add(1, last_true(mask)[:, None], placed[:, None])


def gae(rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over the tokens of the mask.

    δ_t = r_t + γ V_{t+1} − V_t with V = 0 after the last token, A_t = δ_t + γλ A_{t+1}. Slots outside the
    mask (observations between turns) are passed over: the next sampled token is the successor.
    Source: Schulman et al. 2015, arXiv:1506.02438, equations 11 and 16.

    Args: rewards, values [B, T] float32; mask [B, T] bool. Returns: advantages and returns (A + V),
    both [B, T] float32 and 0 outside the mask.
    """
    batch, length = rewards.shape
    advantages = torch.zeros_like(rewards)
    running = rewards.new_zeros(batch)
    next_value = rewards.new_zeros(batch)
    for t in range(length - 1, -1, -1):
        here = mask[:, t]
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(here, delta + gamma * lam * running, running)
        next_value = torch.where(here, values[:, t], next_value)
        advantages[:, t] = torch.where(here, running, advantages[:, t])
    return advantages, torch.where(mask, advantages + values, torch.zeros_like(values))


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Shift and scale to mean 0 and standard deviation 1 over the mask; 0 outside it.

    Biased variance over everything given, so the caller passes the whole rollout batch. ε is added to the
    standard deviation. In float64, so that equal values give exactly 0 and not their rounding, scaled up.
    Args: values [B, T] float32; mask [B, T] bool. Returns the dtype of `values`.
    """
    chosen = values[mask].double()
    centred = chosen - (chosen.mean() if len(chosen) else 0.0)
    whitened = centred / (centred.square().mean().sqrt() + WHITENING_EPSILON)
    return torch.zeros_like(values).masked_scatter(mask, whitened.to(values.dtype))


def explained_variance(values: Tensor, returns: Tensor, mask: Tensor) -> float:
    """1 − Var(R − V) / Var(R) over the mask; 0 when the returns do not vary. Arguments [B, T]."""
    target = returns[mask].double()
    if target.numel() < 2 or float(target.var(correction=0)) == 0.0:
        return 0.0
    residual = target - values[mask].double()
    return 1.0 - float(residual.var(correction=0) / target.var(correction=0))
