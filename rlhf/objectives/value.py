"""The critic's loss, as a sum over tokens: the caller divides by the tokens of the optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.objectives.masks import inside


@dataclass(frozen=True)
class ValueLoss:
    """Token sums of a value loss and its clipped count, scalars; `loss` carries the gradient."""

    loss: Tensor
    clipped: Tensor


def value_loss(values: Tensor, old_values: Tensor, returns: Tensor, mask: Tensor, clip: float | None) -> ValueLoss:
    """½ Σ max((V − R)², (clip(V, V_old ± ε_v) − R)²); without a clip, ½ Σ (V − R)².

    Source: Ouyang et al. 2022, arXiv:2203.02155, appendix C, after OpenAI Baselines' PPO2.
    Args: tensors [B, T], float32 (mask bool); values carries the gradient.
    """
    values, old_values, returns = (inside(mask, tensor) for tensor in (values, old_values, returns))
    error = (values - returns).square()
    if clip is None:
        return ValueLoss(0.5 * error.sum(), mask.new_zeros((), dtype=torch.float32))
    bounded = (torch.clamp(values, old_values - clip, old_values + clip) - returns).square()
    return ValueLoss(0.5 * torch.maximum(error, bounded).sum(), (bounded > error).float().sum())
