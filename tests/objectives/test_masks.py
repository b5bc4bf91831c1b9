"""Nothing passes the edge of a mask, forward or backward."""

from __future__ import annotations

import math

import torch

from rlhf.objectives.masks import inside, masked_sum


def test_masked_sum_lets_nothing_through_from_outside() -> None:
    values = torch.tensor([[1.0, math.nan, 3.0]]).requires_grad_()
    total = masked_sum(values, torch.tensor([[True, False, True]]))
    total.backward()
    assert float(total.detach()) == 4.0 and values.grad.tolist() == [[1.0, 0.0, 1.0]]


def test_inside_keeps_the_values_and_writes_zeros() -> None:
    values = torch.tensor([[math.inf, 2.0, -math.inf]])
    assert inside(torch.tensor([[False, True, False]]), values).tolist() == [[0.0, 2.0, 0.0]]
