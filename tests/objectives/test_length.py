"""Length penalties and the filter of cut responses: golden vectors."""

from __future__ import annotations

import pytest
import torch

from rlhf.objectives.length import linear_length_penalty, overlong_filter, soft_overlong_penalty
from rlhf.objectives.reduction import row_weights, step_totals


def test_soft_overlong_penalty_falls_through_the_buffer() -> None:
    """Limit 100, buffer 20: the penalty starts after 80."""
    lengths = torch.tensor([0, 1, 79, 80, 81, 85, 90, 95, 99, 100, 101, 500])
    wanted = [0, 0, 0, 0, -0.05, -0.25, -0.5, -0.75, -0.95, -1, -1, -1]
    found = soft_overlong_penalty(lengths, 100, 20)
    assert found.dtype == torch.float32 and found.tolist() == pytest.approx(wanted, abs=1e-7)


def test_the_buffer_may_be_the_whole_response() -> None:
    assert soft_overlong_penalty(torch.tensor([0, 2, 4]), 4, 4).tolist() == [0.0, -0.5, -1.0]


@pytest.mark.parametrize("buffer", [0, -1, 101])
def test_a_buffer_outside_the_limit_is_refused(buffer: int) -> None:
    with pytest.raises(ValueError, match=f"buffer of {buffer} tokens: choose 1 to 100"):
        soft_overlong_penalty(torch.tensor([1]), 100, buffer)


def test_linear_penalty() -> None:
    lengths = torch.tensor([0, 3, 10])
    assert linear_length_penalty(lengths, 0.5).tolist() == [0.0, -1.5, -5.0]
    assert linear_length_penalty(lengths, 0.5, free=4).tolist() == [0.0, 0.0, -3.0]


def test_cut_responses_leave_the_loss_and_its_denominators() -> None:
    mask = torch.tensor([[False, True, True], [True, True, True], [True, False, False]])
    kept = overlong_filter(mask, torch.tensor([True, False, True]))
    assert kept.tolist() == [[False, True, True], [False] * 3, [True, False, False]]
    lengths = kept.sum(dim=1)
    totals = step_totals(lengths, max_new_tokens=3)
    assert (totals.tokens, totals.responses) == (3, 2)
    assert row_weights(lengths, "sequence_mean_token_mean", totals).tolist() == [0.25, 0.0, 0.5]
