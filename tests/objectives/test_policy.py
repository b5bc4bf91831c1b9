"""Policy losses: golden vectors, clips, and no gradient from outside the mask."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from rlhf.objectives.policy import cispo_terms, gspo_terms, ppo_terms

NAN = math.nan


def row(*numbers: float) -> Tensor:
    return torch.tensor([numbers], dtype=torch.float32)


def ones(count: int) -> Tensor:
    return torch.ones(1, count, dtype=torch.bool)


def one_token(ratio: float, advantage: float, **settings) -> tuple[float, float]:
    """PPO's term of one token and its gradient with respect to log π."""
    logprobs = row(math.log(ratio)).requires_grad_()
    settings = {"clip_low": 0.2, "clip_high": 0.2, **settings}
    terms = ppo_terms(logprobs, row(0.0), row(advantage), ones(1), **settings).terms
    terms.sum().backward()
    return float(terms.detach()), float(logprobs.grad)


def test_golden_clip() -> None:
    found = ppo_terms(row(math.log(0.5), math.log(2)), row(0, 0), row(1, -1), ones(2), 0.2, 0.2)
    torch.testing.assert_close(found.terms, row(-0.5, 2.0), atol=1e-6, rtol=0)
    assert float(found.terms.mean()) == pytest.approx(0.75, abs=1e-6)
    assert float(found.clipped) == 0  # both keep their gradient: the unclipped term is the smaller one


@pytest.mark.parametrize(
    ("ratio", "advantage", "term", "gradient"),
    [(1.5, 1, -1.2, 0), (0.5, -1, 0.8, 0), (1.1, 1, -1.1, -1.1), (0.9, -1, 0.9, 0.9), (1.0, 2, -2, -2)],
)
def test_the_clip_cuts_the_gradient_where_the_ratio_left_the_range(ratio, advantage, term, gradient) -> None:
    assert one_token(ratio, advantage) == pytest.approx((term, gradient), abs=1e-6)


def test_the_upper_clip_may_be_wider() -> None:
    assert one_token(1.25, 1, clip_high=0.28) == pytest.approx((-1.25, -1.25), abs=1e-6)
    assert one_token(1.5, 1, clip_high=0.28) == pytest.approx((-1.28, 0), abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "term", "gradient"), [(10, -1, 3, 0), (2, -1, 2, 2), (10, 1, -1.2, 0), (0.1, -1, 0.8, 0)]
)
def test_dual_clip_bounds_negative_advantages_only(ratio, advantage, term, gradient) -> None:
    assert one_token(ratio, advantage, dual_clip=3.0) == pytest.approx((term, gradient), abs=1e-5)


# Log-ratios ln 1.5, ln 0.6 and 0 have the geometric mean 0.9^(1/3) = 0.965489; the second response has ratio 1.5.
GSPO_LOGPROBS = torch.tensor([[math.log(1.5), math.log(0.6), 0.0, 7.0], [math.log(1.5), 7.0, 7.0, 7.0]])
GSPO_MASK = torch.tensor([[True, True, True, False], [True, False, False, False]])


@pytest.mark.parametrize(
    ("advantages", "terms", "gradients", "clipped"),
    [
        ((2.0, 1.0), (-1.930979, -1.2), (-1.930979, 0.0), 1),
        ((-2.0, -1.0), (1.930979, 1.5), (1.930979, 1.5), 0),
    ],
)
def test_gspo_has_one_ratio_per_response(advantages, terms, gradients, clipped) -> None:
    """Every token carries the term of its response, and the mean over them has the gradient s A / length."""
    logprobs = GSPO_LOGPROBS.clone().requires_grad_()
    spread = torch.tensor(advantages)[:, None].expand(2, 4)
    found = gspo_terms(logprobs, torch.zeros(2, 4), spread, GSPO_MASK, 0.2, 0.2)
    wanted = torch.tensor(terms)[:, None].expand(2, 4) * GSPO_MASK
    torch.testing.assert_close(found.terms.detach(), wanted, atol=1e-6, rtol=0)
    (found.terms.sum(dim=1) / GSPO_MASK.sum(dim=1)).sum().backward()
    per_token = torch.tensor(gradients)[:, None] / GSPO_MASK.sum(dim=1, keepdim=True)
    torch.testing.assert_close(logprobs.grad, per_token * GSPO_MASK, atol=1e-6, rtol=0)
    assert float(found.clipped) == clipped


def test_gspo_counts_the_tokens_of_clipped_responses() -> None:
    found = gspo_terms(GSPO_LOGPROBS, torch.zeros(2, 4), torch.ones(2, 4), GSPO_MASK, 0.01, 0.01)
    assert float(found.clipped) == 1  # A = 1: the first response, below the range, keeps the unclipped term
    found = gspo_terms(GSPO_LOGPROBS, torch.zeros(2, 4), -torch.ones(2, 4), GSPO_MASK, 0.01, 0.01)
    assert float(found.clipped) == 3


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize(("ratio", "weight", "clipped"), [(1.5, 1.28, 1), (1.1, 1.1, 0), (0.05, 0.05, 0)])
def test_cispo_clips_the_weight_and_keeps_the_gradient(ratio, weight, clipped, advantage) -> None:
    logprobs = row(math.log(ratio) - 1.0).requires_grad_()
    found = cispo_terms(logprobs, row(-1.0), row(advantage), ones(1), 1.0, 0.28)
    found.terms.sum().backward()
    assert float(found.terms.detach()) == pytest.approx(-weight * advantage * (math.log(ratio) - 1.0), abs=1e-5)
    assert float(logprobs.grad) == pytest.approx(-weight * advantage, abs=1e-5)
    assert float(found.clipped) == clipped


def test_cispo_may_have_a_lower_bound() -> None:
    logprobs = row(math.log(0.5)).requires_grad_()
    found = cispo_terms(logprobs, row(0.0), row(1.0), ones(1), 0.2, 0.2)
    found.terms.sum().backward()
    assert float(logprobs.grad) == pytest.approx(-0.8) and float(found.clipped) == 1


LOSSES = pytest.mark.parametrize("loss", [ppo_terms, gspo_terms, cispo_terms])


@LOSSES
def test_on_policy_all_have_the_gradient_of_reinforce(loss) -> None:
    """−A on every token where π is π_old: per token at once, and for GSPO after its mean over the response."""
    advantages = torch.tensor([[0.5, 0.5, 0.5], [-2.0, -2.0, -2.0]])
    logprobs = torch.tensor([[-1.0, -2.0, -3.0], [-0.1, -0.2, -0.3]]).requires_grad_()
    loss(logprobs, logprobs.detach(), advantages, torch.ones(2, 3, dtype=torch.bool), 0.2, 0.2).terms.sum().backward()
    torch.testing.assert_close(logprobs.grad, -advantages)


@LOSSES
@pytest.mark.parametrize("log_ratio", [200.0, -200.0])
def test_a_wild_ratio_stays_finite(loss, log_ratio: float) -> None:
    logprobs = row(log_ratio).requires_grad_()
    terms = loss(logprobs, row(0), row(-1), ones(1), 0.2, 0.2).terms
    terms.sum().backward()
    assert torch.isfinite(terms).all() and torch.isfinite(logprobs.grad).all()


@LOSSES
def test_diagnostics_are_sums_over_tokens_without_gradient(loss) -> None:
    mask = torch.tensor([[True, True, True, False]])
    logprobs = row(math.log(1.5), math.log(0.5), math.log(1.1), NAN).requires_grad_()
    found = loss(logprobs, row(0, 0, 0, 0), row(1, -1, 1, 1), mask, 0.2, 0.2)
    wanted = sum(r - 1 - math.log(r) for r in (1.5, 0.5, 1.1))
    assert float(found.approx_kl) == pytest.approx(wanted, abs=1e-6)
    assert float(found.clipped) == {ppo_terms: 2, gspo_terms: 0, cispo_terms: 2}[loss]
    assert not found.approx_kl.requires_grad and not found.clipped.requires_grad and found.terms.requires_grad


@pytest.mark.parametrize("loss", [ppo_terms, partial(ppo_terms, dual_clip=3.0), gspo_terms, cispo_terms])
@pytest.mark.parametrize("dirt", [NAN, math.inf, -math.inf, 1e30])
@pytest.mark.parametrize("place", range(4))
def test_no_gradient_and_no_harm_from_outside_the_mask(loss, place: int, dirt: float) -> None:
    """Log-probabilities, old ones, advantages, or all three spoilt; the second row has no response at all."""
    mask = torch.tensor([[False, True, True, False, True], [False] * 5])
    clean = list(torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(1)))
    found = []
    for spoilt in (False, True):
        tensors = [t.clone() for t in clean]
        for k, tensor in enumerate(tensors):
            if spoilt and place in (k, 3):
                tensor[~mask] = dirt
        tensors[0].requires_grad_()
        given = loss(*tensors, mask, 0.2, 0.2)
        given.terms.sum().backward()
        found.append((given.terms.detach(), given.clipped, given.approx_kl, tensors[0].grad))
    for got, wanted in zip(found[1], found[0], strict=True):
        assert torch.equal(got, wanted)
    assert not found[1][0][~mask].any()
    assert not found[1][3][~mask].any() and found[1][3][mask].any()
