"""Sampler–learner correction: golden weights, what counts as changed, and the mismatch metrics."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.objectives.correction import icepop, mismatch, sequence_tis, token_tis

NAN = math.nan
# Ratios learner / sampler 0.25, 1, 4 (product 1) and 3, 2 (product 6); the rest is prompt or padding.
RATIOS = torch.tensor([[9.0, 0.25, 1.0, 4.0, 9.0], [3.0, 2.0, 9.0, 9.0, 9.0]])
MASK = torch.tensor([[False, True, True, True, False], [True, True, False, False, False]])
SAMPLER = torch.full((2, 5), -1.5)
OLD = SAMPLER + RATIOS.log()


@pytest.mark.parametrize(
    ("correction", "settings", "weights", "changed"),
    [
        (token_tis, {"cap": 2.0}, [[0, 0.25, 1, 2, 0], [2, 2, 0, 0, 0]], 2),
        (token_tis, {"cap": 10.0}, [[0, 0.25, 1, 4, 0], [3, 2, 0, 0, 0]], 0),
        (sequence_tis, {"cap": 2.5}, [[0, 1, 1, 1, 0], [2.5, 2.5, 0, 0, 0]], 2),
        (sequence_tis, {"cap": 10.0}, [[0, 1, 1, 1, 0], [6, 6, 0, 0, 0]], 0),
        (icepop, {"low": 0.5, "high": 3.5}, [[0, 0, 1, 0, 0], [3, 2, 0, 0, 0]], 2),
        (icepop, {"low": 0.2, "high": 5.0}, [[0, 0.25, 1, 4, 0], [3, 2, 0, 0, 0]], 0),
    ],
)
def test_golden_weights(correction, settings, weights, changed) -> None:
    found = correction(OLD, SAMPLER, MASK, **settings)
    assert found.weights.dtype == torch.float32 and found.weights.shape == (2, 5)
    torch.testing.assert_close(found.weights, torch.tensor(weights, dtype=torch.float32), atol=1e-5, rtol=0)
    assert float(found.changed) == changed


CORRECTIONS = [
    lambda *tensors: token_tis(*tensors, cap=2.0), lambda *tensors: sequence_tis(*tensors, cap=2.0),
    lambda *tensors: icepop(*tensors, low=0.5, high=2.0),
]
EVERY_CORRECTION = pytest.mark.parametrize("correction", CORRECTIONS, ids=["token_tis", "sequence_tis", "icepop"])


@EVERY_CORRECTION
def test_where_the_engines_agree_every_token_has_weight_one(correction) -> None:
    found = correction(SAMPLER, SAMPLER, MASK)
    assert torch.equal(found.weights, MASK.float()) and float(found.changed) == 0


@EVERY_CORRECTION
def test_no_gradient_flows_through_the_weights(correction) -> None:
    old = OLD.clone().requires_grad_()
    found = correction(old, SAMPLER, MASK)
    assert not found.weights.requires_grad and not found.changed.requires_grad


def spoil(tensor: Tensor, dirt: float) -> Tensor:
    return torch.where(MASK, tensor, torch.full_like(tensor, dirt))


@EVERY_CORRECTION
@pytest.mark.parametrize("dirt", [NAN, math.inf, -math.inf])
def test_what_lies_outside_the_mask_changes_nothing(correction, dirt: float) -> None:
    clean, dirty = correction(OLD, SAMPLER, MASK), correction(spoil(OLD, dirt), spoil(SAMPLER, dirt), MASK)
    assert torch.equal(dirty.weights, clean.weights) and torch.equal(dirty.changed, clean.changed)
    metrics, spoilt = mismatch(OLD, SAMPLER, MASK), mismatch(spoil(OLD, dirt), spoil(SAMPLER, dirt), MASK)
    assert spoilt == metrics


@EVERY_CORRECTION
def test_padding_and_row_order_change_nothing(correction) -> None:
    wide = [torch.nn.functional.pad(tensor, (0, 3)) for tensor in (OLD, SAMPLER, MASK)]
    whole = correction(OLD, SAMPLER, MASK).weights
    torch.testing.assert_close(correction(*wide).weights[:, :5], whole)
    assert torch.equal(correction(OLD.flip(0), SAMPLER.flip(0), MASK.flip(0)).weights, whole.flip(0))


@EVERY_CORRECTION
@pytest.mark.parametrize("log_ratio", [300.0, -300.0])
def test_a_wild_ratio_stays_finite(correction, log_ratio: float) -> None:
    assert torch.isfinite(correction(SAMPLER + log_ratio, SAMPLER, MASK).weights).all()
    found = mismatch(SAMPLER + log_ratio, SAMPLER, MASK)
    assert all(math.isfinite(float(number)) for number in (found.k1, found.k3, found.ratio_max))


def test_mismatch_metrics() -> None:
    """Log-ratios −ln 4, 0, ln 4, ln 3, ln 2: k1 = −ln 6, k3 = Σ w − 5 − ln 6 with Σ w = 10.25."""
    found = mismatch(OLD, SAMPLER, MASK)
    assert float(found.k1) == pytest.approx(-math.log(6), abs=1e-5)
    assert float(found.k3) == pytest.approx(10.25 - 5 - math.log(6), abs=1e-5)
    assert float(found.ratio_max) == pytest.approx(4.0, abs=1e-5)


def test_mismatch_without_tokens_is_zero() -> None:
    found = mismatch(OLD, SAMPLER, torch.zeros_like(MASK))
    assert (float(found.k1), float(found.k3), float(found.ratio_max)) == (0.0, 0.0, 0.0)


def test_the_estimates_agree_in_expectation_with_the_divergence() -> None:
    """Over a vocabulary of three, with the probabilities as weights: both are KL(sampler ‖ learner)."""
    sampler, learner = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = float((sampler * (sampler / learner).log()).sum())
    estimates = [
        mismatch(p.log().view(1, 1), q.log().view(1, 1), torch.ones(1, 1, dtype=torch.bool))
        for p, q in zip(learner, sampler, strict=True)
    ]
    for name in ("k1", "k3"):
        mean = sum(float(q) * float(getattr(one, name)) for q, one in zip(sampler, estimates, strict=True))
        assert mean == pytest.approx(exact, abs=1e-6)
