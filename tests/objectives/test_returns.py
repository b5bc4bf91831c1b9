"""Returns without a critic, and an advantage on every token of its response."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.objectives.advantages import gae
from rlhf.objectives.returns import returns_to_go, spread


def test_golden_returns() -> None:
    rewards = torch.tensor([[1.0, 2.0, 4.0, 9.0]])
    mask = torch.tensor([[True, True, True, False]])
    assert returns_to_go(rewards, mask, 0.5).tolist() == [[3.0, 4.0, 4.0, 0.0]]
    assert returns_to_go(rewards, mask, 1.0).tolist() == [[7.0, 6.0, 4.0, 0.0]]
    assert returns_to_go(rewards, mask, 0.0).tolist() == [[1.0, 2.0, 4.0, 0.0]]


def test_observations_between_turns_are_passed_over_without_discount() -> None:
    rewards = torch.tensor([[7.0, 1.0, 7.0, 7.0, 4.0, 7.0]])
    mask = torch.tensor([[False, True, False, False, True, False]])
    assert returns_to_go(rewards, mask, 0.5).tolist() == [[0.0, 3.0, 0.0, 0.0, 4.0, 0.0]]


def test_a_row_without_response_has_no_return() -> None:
    assert not returns_to_go(torch.ones(2, 3), torch.zeros(2, 3, dtype=torch.bool), 0.9).any()


@pytest.mark.parametrize("dirt", [math.nan, math.inf])
def test_what_lies_outside_the_mask_changes_nothing(dirt: float) -> None:
    mask = torch.tensor([[False, True, False, True, False]])
    clean = torch.rand(1, 5)
    dirty = torch.where(mask, clean, torch.full_like(clean, dirt))
    assert torch.equal(returns_to_go(dirty, mask, 0.9), returns_to_go(clean, mask, 0.9))


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_it_is_gae_without_values(gamma: float) -> None:
    generator = torch.Generator().manual_seed(3)
    rewards, mask = torch.randn(6, 11, generator=generator), torch.rand(6, 11, generator=generator) < 0.6
    wanted, _ = gae(rewards, torch.zeros_like(rewards), mask, gamma, 1.0)
    torch.testing.assert_close(returns_to_go(rewards, mask, gamma), wanted, atol=1e-6, rtol=0)


def test_padding_and_row_order_change_nothing() -> None:
    generator = torch.Generator().manual_seed(4)
    rewards, mask = torch.randn(4, 7, generator=generator), torch.rand(4, 7, generator=generator) < 0.5
    whole = returns_to_go(rewards, mask, 0.9)
    wide = [torch.nn.functional.pad(tensor, (0, 5), value=value) for tensor, value in ((rewards, 9.0), (mask, False))]
    assert torch.equal(returns_to_go(*wide, 0.9)[:, :7], whole)
    order = torch.tensor([2, 0, 3, 1])
    assert torch.equal(returns_to_go(rewards[order], mask[order], 0.9), whole[order])


def test_spread_puts_the_advantage_on_the_tokens_of_the_response() -> None:
    mask = torch.tensor([[False, True, True], [True, False, False], [False, False, False]])
    assert spread(torch.tensor([2.0, -1.0, 5.0]), mask).tolist() == [[0, 2, 2], [-1, 0, 0], [0, 0, 0]]
