"""What lies outside the response mask takes part in nothing."""

from __future__ import annotations

import torch
from torch import Tensor


def inside(mask: Tensor, values: Tensor) -> Tensor:
    """`values` where the mask is, 0 elsewhere, without gradient there. It must come before any arithmetic: the
    gradient of a NaN or an infinity is not 0, even times 0."""
    return torch.where(mask, values, torch.zeros_like(values))


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum over the mask."""
    return inside(mask, values).sum()
