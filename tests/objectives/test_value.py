"""The critic's clipped loss: golden vectors, the clip, and no gradient from outside the mask."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.objectives.value import value_loss


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def ones(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.bool)


@pytest.mark.parametrize(
    ("value", "old", "target", "loss", "gradient", "clipped"),
    [
        (1.0, 1.0, 3.0, 2.0, -2.0, 0), (2.0, 1.0, 3.0, 0.5 * 1.8**2, 0.0, 1), (0.0, 1.0, 3.0, 4.5, -3.0, 0),
        (1.1, 1.0, 3.0, 0.5 * 1.9**2, -1.9, 0),
    ],
)
def test_value_clip_takes_the_worse_of_the_two(value, old, target, loss, gradient, clipped) -> None:
    values = row(value).requires_grad_()
    found = value_loss(values, row(old), row(target), ones(1), 0.2)
    found.loss.backward()
    assert (float(found.loss.detach()), float(values.grad)) == pytest.approx((loss, gradient), abs=1e-6)
    assert float(found.clipped) == clipped


def test_without_a_value_clip_it_is_half_the_squared_error() -> None:
    found = value_loss(row(2.0, 5.0), row(0.0, 0.0), row(3.0, 1.0), ones(2), None)
    assert float(found.loss) == pytest.approx(0.5 * (1 + 16))
    assert float(found.clipped) == 0


@pytest.mark.parametrize("dirt", [math.nan, math.inf, 1e30])
@pytest.mark.parametrize("clip", [0.2, None])
def test_no_value_gradient_and_no_harm_from_outside_the_mask(clip: float | None, dirt: float) -> None:
    mask = torch.tensor([[False, True, True, False, True]])
    clean = list(torch.randn(3, 1, 5, generator=torch.Generator().manual_seed(2)))
    found = []
    for spoilt in (False, True):
        tensors = [torch.where(mask, t, torch.full_like(t, dirt)) if spoilt else t.clone() for t in clean]
        tensors[0].requires_grad_()
        loss = value_loss(*tensors, mask, clip)
        loss.loss.backward()
        found.append((loss.loss.detach(), loss.clipped, tensors[0].grad))
    for got, wanted in zip(found[1], found[0], strict=True):
        assert torch.equal(got, wanted)
    assert not found[1][2][~mask].any()
