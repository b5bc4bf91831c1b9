"""Advantages per token without a critic."""

from __future__ import annotations

import torch
from torch import Tensor

from rlhf.objectives.masks import inside


def returns_to_go(rewards: Tensor, mask: Tensor, gamma: float) -> Tensor:
    """G_t = r_t + γ G_{t+1}, where the successor of a token is the next sampled one: observations between turns are
    passed over, and take no discount. What REINFORCE++ (arXiv:2501.03262) whitens to its advantages.

    Args: rewards [B, T] float32; mask [B, T] bool. Returns [B, T] float32, 0 outside the mask.
    """
    returns = torch.zeros_like(rewards)
    running = rewards.new_zeros(rewards.shape[0])
    for t in range(rewards.shape[1] - 1, -1, -1):
        here = mask[:, t]
        running = torch.where(here, rewards[:, t] + gamma * running, running)
        returns[:, t] = torch.where(here, running, returns[:, t])
    return returns


def spread(advantages: Tensor, mask: Tensor) -> Tensor:
    """The advantage of a response on each of its tokens: [B] and mask [B, T] bool → [B, T], 0 outside the mask."""
    return inside(mask, advantages[:, None].expand(mask.shape))
