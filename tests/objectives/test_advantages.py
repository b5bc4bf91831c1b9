"""Rewards, advantages, returns and whitening: golden vectors worked out by hand, and properties against an oracle."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from rlhf.objectives.advantages import explained_variance, gae, last_true, token_rewards, whiten
from rlhf.objectives.kl import kl_estimate

NAN = math.nan


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


# Slots [token, token, end of sequence, padding].
OLD_LOGPROBS = (-1.0, -2.0, -0.5, -3.0)
REF_LOGPROBS = (-1.2, -1.5, -0.6, -3.0)
VALUES = (0.1, 0.2, 0.3, 0.4)
MASK = torch.tensor([[True, True, True, False]])
SCORE = torch.tensor([1.0])


@pytest.mark.parametrize(
    ("kl_coef", "gamma", "lam", "rewards", "advantages", "returns", "whitened"),
    [
        (
            0.01, 1.0, 1.0, row(-0.002, 0.005, 0.999, 0), row(0.902, 0.804, 0.699, 0), row(1.002, 1.004, 0.999, 0),
            row(1.210427, 0.028149, -1.238577, 0),
        ),
        (
            0.05, 1.0, 0.95, row(-0.01, 0.025, 0.995, 0), row(0.835987, 0.78525, 0.695, 0),
            row(0.935987, 0.98525, 0.995, 0), row(1.096076, 0.225890, -1.321965, 0),
        ),
    ],
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 6e-7), (torch.float32, 4e-6)])
def test_golden_vectors(kl_coef, gamma, lam, rewards, advantages, returns, whitened, dtype, tolerance) -> None:
    """To the sixth digit in float64; float32 loses some, as whitening divides by a spread of 0.06."""
    old, ref, values = (torch.tensor([numbers], dtype=dtype) for numbers in (OLD_LOGPROBS, REF_LOGPROBS, VALUES))
    got_rewards = token_rewards(SCORE.to(dtype), kl_estimate(old, ref, "k1"), MASK, kl_coef)
    got_advantages, got_returns = gae(got_rewards, values, MASK, gamma, lam)
    got = (got_rewards, got_advantages, got_returns, whiten(got_advantages, MASK))
    for found, wanted in zip(got, (rewards, advantages, returns, whitened), strict=True):
        torch.testing.assert_close(found, wanted.to(dtype), atol=tolerance, rtol=0)
    assert got_rewards[0, 3] == got_advantages[0, 3] == got_returns[0, 3] == 0


def test_gae_with_lambda_one_half() -> None:
    advantages, returns = gae(row(0, 0, 1), row(0.5, 0.5, 0.5), torch.ones(1, 3, dtype=torch.bool), 1.0, 0.5)
    assert advantages.tolist() == [[0.125, 0.25, 0.5]]
    assert returns.tolist() == [[0.625, 0.75, 1.0]]


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_gae_is_carried_over_observations_between_turns(lam: float) -> None:
    """A turn, three observed tokens, a turn: as if the observations were not there."""
    mask = torch.tensor([[False, True, True, False, False, False, True, False]])
    rewards, values = torch.zeros(1, 8), torch.full((1, 8), 77.0)
    rewards[mask] = torch.tensor([0.1, -0.2, 1.0])
    values[mask] = torch.tensor([0.3, 0.4, 0.5])
    advantages, returns = gae(rewards, values, mask, 0.9, lam)
    dense = torch.ones(1, 3, dtype=torch.bool)
    wanted_advantages, wanted_returns = gae(row(0.1, -0.2, 1.0), row(0.3, 0.4, 0.5), dense, 0.9, lam)
    assert torch.equal(advantages[mask], wanted_advantages[0])
    assert torch.equal(returns[mask], wanted_returns[0])
    assert not advantages[~mask].any() and not returns[~mask].any()


def test_score_stands_on_the_last_response_token() -> None:
    """Not on padding, not on the last column, and not on a prompt; a row without a response has no reward."""
    mask = torch.tensor([
        [False, True, True, False], [False, False, False, True], [True, False, False, False], [False] * 4,
        [True, False, True, False],
    ])
    rewards = token_rewards(torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]), torch.zeros(5, 4), mask, 0.1)
    assert last_true(mask).tolist() == [2, 3, 0, 0, 2]
    assert rewards.tolist() == [[0, 0, 1, 0], [0, 0, 0, 2], [3, 0, 0, 0], [0, 0, 0, 0], [0, 0, 5, 0]]


def test_nan_outside_the_mask_changes_nothing() -> None:
    mask = torch.tensor([[False, True, False, True, False]])
    clean = torch.rand(1, 5)
    dirty = torch.where(mask, clean, torch.full_like(clean, NAN))
    rewards = token_rewards(SCORE, dirty, mask, 0.1)
    assert torch.equal(rewards, token_rewards(SCORE, clean, mask, 0.1))
    for got, wanted in zip(gae(dirty, dirty, mask, 0.9, 0.8), gae(clean, clean, mask, 0.9, 0.8), strict=True):
        assert torch.equal(got, wanted)
    assert torch.equal(whiten(dirty, mask), whiten(clean, mask))


def test_explained_variance_is_one_when_exact_zero_for_the_mean_and_for_constant_returns() -> None:
    mask = torch.tensor([[True, True, True, False]])
    returns = row(1.0, 2.0, 6.0, NAN)
    assert explained_variance(returns, returns, mask) == 1.0
    assert explained_variance(row(3.0, 3.0, 3.0, 0.0), returns, mask) == pytest.approx(0.0, abs=1e-12)
    assert explained_variance(returns, row(4.0, 4.0, 4.0, NAN), mask) == 0.0
    assert explained_variance(returns, returns, torch.tensor([[True, False, False, False]])) == 0.0


batches = st.builds(
    lambda rows, width, seed, density: _batch(rows, width, seed, density),
    st.integers(1, 5), st.integers(1, 12), st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 1.0]),
)


def _batch(rows: int, width: int, seed: int, density: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and a mask with holes; some rows may have no response at all."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, rows, width, generator=generator)
    return rewards, values, torch.rand(rows, width, generator=generator) <= density


@given(batches, st.floats(0.1, 1.0), st.floats(0.0, 1.0))
def test_gae_equals_the_sum_that_defines_it(batch, gamma: float, lam: float) -> None:
    """A_i = Σ_k (γλ)^k δ_{i+k} over the sampled tokens of a row, in float64."""
    rewards, values, mask = batch
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for b in range(len(rewards)):
        slots = [t for t in range(mask.shape[1]) if mask[b, t]]
        v = [*(float(values[b, t]) for t in slots), 0.0]
        delta = [float(rewards[b, t]) + gamma * v[i + 1] - v[i] for i, t in enumerate(slots)]
        for i, t in enumerate(slots):
            wanted = sum((gamma * lam) ** (k - i) * delta[k] for k in range(i, len(slots)))
            assert float(advantages[b, t]) == pytest.approx(wanted, abs=1e-4)
            assert float(returns[b, t]) == pytest.approx(wanted + v[i], abs=1e-4)
    assert not advantages[~mask].any() and not returns[~mask].any()


@given(batches, st.floats(-50, 50), st.floats(0.5, 20))
def test_whitening_gives_mean_zero_variance_one_and_forgets_shift_and_scale(batch, shift: float, scale: float) -> None:
    values, _, mask = batch
    whitened = whiten(values, mask)
    assert not whitened[~mask].any()
    inside = whitened[mask].double()
    if len(inside) > 1 and float(values[mask].var(correction=0)) > 1e-2:
        assert float(inside.mean()) == pytest.approx(0.0, abs=1e-4)
        assert float(inside.var(correction=0)) == pytest.approx(1.0, abs=1e-3)
        torch.testing.assert_close(whiten(values * scale + shift, mask), whitened, atol=5e-3, rtol=0)
    order = torch.arange(len(values) - 1, -1, -1)
    torch.testing.assert_close(whiten(values[order], mask[order]), whitened[order], atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.567])
@pytest.mark.parametrize("count", [0, 1, 3, 1000])
def test_whitening_of_equal_or_single_or_no_values_is_zero(value: float, count: int) -> None:
    mask = torch.zeros(10, 101, dtype=torch.bool)
    mask.view(-1)[:count] = True
    whitened = whiten(torch.full((10, 101), value), mask)
    assert not whitened.any()
