"""Reductions: golden weights, and a loss that knows nothing of micro-batches, padding, row order or ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor

from rlhf.objectives.names import Reduction
from rlhf.objectives.policy import cispo_terms, gspo_terms, ppo_terms
from rlhf.objectives.reduction import StepTotals, row_weights, step_totals, weighted_sum

KINDS = get_args(Reduction)
LENGTHS = torch.tensor([1, 3, 0, 4])  # one response was filtered out
GENERATOR = torch.Generator().manual_seed(7)
# The responses of an optimizer step, a column of padding on the right.
SIZES = torch.tensor([5, 1, 8, 0, 3, 8, 2])
MASK = torch.arange(9)[None, :] < SIZES[:, None]
LOGPROBS, OLD, ADVANTAGES = torch.randn(3, 7, 9, generator=GENERATOR) / 3
INPUTS = (LOGPROBS, OLD, ADVANTAGES, MASK)


@pytest.mark.parametrize(
    ("kind", "weights", "loss"),
    [
        ("token_mean", [1 / 8, 1 / 8, 0, 1 / 8], (1 + 6 + 40) / 8),
        ("sequence_mean_token_mean", [1 / 3, 1 / 9, 0, 1 / 12], (1 + 2 + 10) / 3),
        ("sequence_mean_token_sum", [1 / 3, 1 / 3, 0, 1 / 3], (1 + 6 + 40) / 3),
        ("sequence_mean_token_sum_norm", [1 / 30, 1 / 30, 0, 1 / 30], (1 + 6 + 40) / 30),
    ],
)
def test_golden_weights(kind: Reduction, weights: list[float], loss: float) -> None:
    """Three responses with 8 tokens, at most 10 each; their terms are 1, 2 and 10 on every token."""
    found = row_weights(LENGTHS, kind, step_totals(LENGTHS, max_new_tokens=10))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(weights))
    terms = torch.tensor([1.0, 2.0, 0.0, 10.0])[:, None] * (torch.arange(4)[None, :] < LENGTHS[:, None])
    assert float(weighted_sum(terms, found)) == pytest.approx(loss)


def test_totals_count_responses_that_have_tokens() -> None:
    assert step_totals(LENGTHS, 10) == StepTotals(tokens=8, responses=3, max_new_tokens=10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_without_any_token_has_loss_zero(kind: Reduction) -> None:
    lengths = torch.zeros(2, dtype=torch.int64)
    weights = row_weights(lengths, kind, step_totals(lengths, 10))
    terms = torch.zeros(2, 3).requires_grad_()
    loss = weighted_sum(terms, weights)
    loss.backward()
    assert weights.tolist() == [0.0, 0.0] and float(loss.detach()) == 0.0 and not terms.grad.any()


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction 'batch_mean': choose one of token_mean, sequence_mean_token_mean"):
        row_weights(LENGTHS, "batch_mean", StepTotals(8, 3, 10))


def loss_and_gradient(loss, kind: Reduction, inputs: Sequence[Tensor], parts: Sequence[Sequence[int]]):
    """Sum over micro-batches, each a list of rows cut to its longest response, with totals of the whole step."""
    logprobs, old, advantages, mask = inputs
    logprobs = logprobs.clone().requires_grad_()
    totals = step_totals(mask.sum(dim=1), max_new_tokens=8)
    total = torch.zeros(())
    for rows in parts:
        width = max(1, int(mask[rows].sum(dim=1).max()))
        part = [tensor[rows, :width] for tensor in (logprobs, old, advantages, mask)]
        weights = row_weights(part[3].sum(dim=1), kind, totals)
        total = total + weighted_sum(loss(*part, 0.2, 0.2).terms, weights)
    total.backward()
    return total.detach(), logprobs.grad


ALL = [list(range(7))]
EVERY_LOSS = pytest.mark.parametrize("loss", [ppo_terms, gspo_terms, cispo_terms])
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)


@EVERY_LOSS
@EVERY_KIND
@pytest.mark.parametrize(
    "parts",
    [[[k] for k in range(7)], [[0, 1], [2, 3, 4], [5, 6]], [[6, 2], [3], [5, 0, 1, 4]]],
    ids=["one row each", "three micro-batches", "other rows together"],
)
def test_micro_batches_change_nothing(loss, kind: Reduction, parts: list[list[int]]) -> None:
    """Ranks are the same thing: their sums are added, too."""
    for got, wanted in zip(
        loss_and_gradient(loss, kind, INPUTS, parts), loss_and_gradient(loss, kind, INPUTS, ALL), strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=1e-6)


@EVERY_LOSS
@EVERY_KIND
def test_padding_changes_nothing(loss, kind: Reduction) -> None:
    mask = torch.nn.functional.pad(MASK, (0, 6))
    wide = [torch.nn.functional.pad(tensor, (0, 6), value=99.0) for tensor in INPUTS[:3]]
    total, gradient = _whole(loss, kind, [*wide, mask])
    wanted_total, wanted_gradient = _whole(loss, kind, INPUTS)
    torch.testing.assert_close(total, wanted_total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient[:, :9], wanted_gradient, atol=1e-6, rtol=1e-6)
    assert not gradient[~mask].any()


@EVERY_LOSS
@EVERY_KIND
def test_row_order_changes_nothing(loss, kind: Reduction) -> None:
    order = torch.tensor([4, 2, 6, 0, 3, 5, 1])
    total, gradient = _whole(loss, kind, [tensor[order] for tensor in INPUTS])
    wanted_total, wanted_gradient = _whole(loss, kind, INPUTS)
    torch.testing.assert_close(total, wanted_total, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(gradient, wanted_gradient[order], atol=1e-6, rtol=1e-6)


def _whole(loss, kind: Reduction, inputs: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """The step as one micro-batch, with whatever padding it has."""
    logprobs = inputs[0].clone().requires_grad_()
    lengths = inputs[3].sum(dim=1)
    weights = row_weights(lengths, kind, step_totals(lengths, max_new_tokens=8))
    total = weighted_sum(loss(logprobs, *inputs[1:], 0.2, 0.2).terms, weights)
    total.backward()
    return total.detach(), logprobs.grad
