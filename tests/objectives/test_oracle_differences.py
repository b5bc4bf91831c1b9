"""Where we differ from TRL 1.16 on purpose, and by how much."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from rlhf.objectives.advantages import whiten
from rlhf.objectives.group import leave_one_out
from rlhf.objectives.kl import kl_estimate
from rlhf.objectives.length import overlong_filter
from rlhf.objectives.policy import ppo_terms
from rlhf.objectives.reduction import row_weights, step_totals, weighted_sum
from rlhf.objectives.returns import spread
from tests.objectives import trl_trainers as trl

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
GENERATOR = torch.Generator().manual_seed(13)
LENGTHS = torch.tensor([8, 1, 7, 2])
MASK = torch.arange(8)[None, :] < LENGTHS[:, None]
OLD = -2 * torch.rand(4, 8, generator=GENERATOR)
LOGPROBS = OLD + torch.randn(4, 8, generator=GENERATOR) / 3
ADVANTAGES = torch.tensor([1.0, -0.5, 0.25, -2.0])
SCORES = [0.5, -1.25, 3.0, 0.75]


def terms(logprobs: Tensor = LOGPROBS, old: Tensor = OLD, mask: Tensor = MASK) -> Tensor:
    return ppo_terms(logprobs, old, spread(ADVANTAGES, mask), mask, 0.2, 0.2).terms


def our_loss(reduction: str, mask: Tensor = MASK) -> Tensor:
    lengths = mask.sum(dim=1)
    return weighted_sum(terms(mask=mask), row_weights(lengths, reduction, step_totals(lengths, 8)))


@pytest.fixture
def grpo(tiny_models, tmp_path):
    return partial(trl.grpo, tiny_models.tied, tmp_path, max_completion_length=8)


@pytest.fixture
def rloo(tiny_models, tmp_path):
    return partial(trl.rloo, tiny_models.tied, tmp_path, max_completion_length=8)


def trl_loss(trainer, rows: slice = slice(None), old: Tensor = OLD, mask: Tensor = MASK, **given) -> Tensor:
    whole_step = {"num_items_in_batch": mask.sum()}
    return trl.loss_and_gradient(
        trainer, LOGPROBS[rows], ADVANTAGES[rows], mask[rows], old_per_token_logps=old[rows], **whole_step, **given
    )[0]


@pytest.mark.parametrize("loss_type", ["bnpo", "dapo"])
def test_a_token_mean_is_over_the_optimizer_step(grpo, loss_type: str) -> None:
    """Micro-batches of 17 tokens and 1: TRL's bnpo averages their means, its dapo and we do not see the cut."""
    mask = MASK.clone()
    mask[2:, 1:] = False
    mask[3] = False
    trainer = grpo(2, 2, loss_type=loss_type, gradient_accumulation_steps=2)
    theirs = sum(trl_loss(trainer, rows, mask=mask) for rows in (slice(0, 2), slice(2, 4)))
    sums = terms(mask=mask).sum(dim=1)
    if loss_type == "bnpo":
        expected = ((sums[0] + sums[1]) / 9 + sums[2] / 1) / 2
    else:
        expected = sums.sum() / 10
        torch.testing.assert_close(our_loss("token_mean", mask), expected, **TOLERANCE)
    torch.testing.assert_close(theirs, expected, **TOLERANCE)
    assert loss_type == "dapo" or abs(float(theirs - our_loss("token_mean", mask))) > 0.05


@pytest.mark.parametrize(
    ("loss_type", "reduction"),
    [("grpo", "sequence_mean_token_mean"), ("luspo", "sequence_mean_token_sum"),
     ("dr_grpo", "sequence_mean_token_sum_norm")],
)
def test_a_filtered_response_is_not_in_the_denominator(grpo, loss_type: str, reduction: str) -> None:
    """One of four was cut at the limit: TRL divides by four, we by three. A token mean is the same in both."""
    mask = overlong_filter(MASK, torch.tensor([False, True, True, True]))
    theirs = trl_loss(grpo(4, 2, loss_type=loss_type), mask=mask)
    torch.testing.assert_close(our_loss(reduction, mask) * 3 / 4, theirs, **TOLERANCE)
    theirs = trl_loss(grpo(4, 2, loss_type="dapo"), mask=mask)
    torch.testing.assert_close(our_loss("token_mean", mask), theirs, **TOLERANCE)


def test_wild_ratios_stop_at_e_20(grpo) -> None:
    """With A < 0 nothing else bounds the term: TRL's is e^25 with that gradient, ours e^20 without one."""
    old = LOGPROBS.clone()
    old[1, 0] -= 25.0
    trainer = grpo(4, 2, loss_type="luspo")
    _, gradient = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, MASK, old_per_token_logps=old)
    logprobs = LOGPROBS.clone().requires_grad_()
    ours = terms(logprobs, old)
    ours.sum().backward()
    assert float(gradient[1, 0]) == pytest.approx(0.5 * math.exp(25) / 4, rel=1e-4)
    assert float(ours[1, 0].detach()) == pytest.approx(0.5 * math.exp(20), rel=1e-4)
    assert float(logprobs.grad[1, 0]) == 0.0


def test_the_kl_of_a_token_stops_at_ten_nats(grpo) -> None:
    """A log-ratio of −4: k3 is e^4 − 5 = 49.6 nats in TRL, 10 and without gradient here."""
    ref = LOGPROBS.clone()
    ref[1, 0] += 4.0
    trainer = grpo(4, 2, loss_type="luspo", beta=1.0, use_bias_correction_kl=False)
    without = grpo(4, 2, loss_type="luspo")
    difference = trl_loss(trainer, ref_per_token_logps=ref) - trl_loss(without)
    assert 4 * float(difference) == pytest.approx(math.exp(4) - 5, abs=1e-3)
    assert float(kl_estimate(LOGPROBS, ref, "k3")[1, 0]) == 10.0


def test_the_kl_in_the_loss_is_not_weighted_by_the_ratio(grpo) -> None:
    """TRL's default multiplies it by ρ, which changes its gradient on the policy that sampled, too; ours is the
    estimate itself, as in GRPO."""
    ref = OLD - 0.1
    given = {"old_per_token_logps": LOGPROBS, "ref_per_token_logps": ref}
    found = {}
    for corrected in (True, False):
        trainer = grpo(4, 2, loss_type="luspo", beta=1.0, use_bias_correction_kl=corrected)
        found[corrected] = trl.loss_and_gradient(trainer, LOGPROBS, torch.zeros(4), MASK, **given)
    logprobs = LOGPROBS.clone().requires_grad_()
    estimate = kl_estimate(logprobs, ref, "k3")
    plain, = torch.autograd.grad(estimate[MASK].sum() / 4, logprobs, retain_graph=True)
    weighted, = torch.autograd.grad((estimate * (logprobs - LOGPROBS).exp())[MASK].sum() / 4, logprobs)
    torch.testing.assert_close(plain, found[False][1], **TOLERANCE)
    torch.testing.assert_close(weighted, found[True][1], **TOLERANCE)
    assert float((plain - weighted).abs().max()) > 1e-3


def test_whitening_is_biased_and_has_a_smaller_epsilon(rloo) -> None:
    """TRL: unbiased deviation plus 1e-4, over responses. Ours: biased plus 1e-8, over the tokens of the batch."""
    raw = leave_one_out(torch.tensor(SCORES), torch.zeros(4).long())
    theirs = trl.advantages(rloo(4, 4, beta=0.0, normalize_advantages=True), SCORES)
    one_token = torch.ones(4, 1, dtype=torch.bool)
    ours = whiten(raw[:, None], one_token)[:, 0]
    biased, unbiased = (float(raw.double().std(correction=n)) for n in (0, 1))
    torch.testing.assert_close(ours, theirs * (unbiased + 1e-4) / (biased + 1e-8), **TOLERANCE)
    assert float(ours.norm() / theirs.norm()) == pytest.approx(math.sqrt(4 / 3), rel=1e-3)
    by_length = whiten(spread(raw, MASK), MASK)
    assert float(by_length[MASK].mean()) == pytest.approx(0.0, abs=1e-6) and float(by_length[:, 0].mean()) != 0


def test_rloo_has_a_ratio_per_token(rloo) -> None:
    """TRL's is the product over the response. One token long they are the same; longer, TRL's clip acts on all."""
    trainer = rloo(4, 4, beta=0.0)
    one = MASK & (torch.arange(8) == 0)
    theirs = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, one, old_logps=OLD[:, 0])
    logprobs = LOGPROBS.clone().requires_grad_()
    loss = terms(logprobs, mask=one).sum() / 4
    loss.backward()
    torch.testing.assert_close((loss.detach(), logprobs.grad), theirs, **TOLERANCE)
    product = (LOGPROBS - OLD).masked_fill(~MASK, 0).sum(dim=1).exp()
    clipped = torch.minimum(product * ADVANTAGES, product.clamp(0.8, 1.2) * ADVANTAGES)
    old = OLD.masked_fill(~MASK, 0).sum(dim=1)
    theirs_loss, _ = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, MASK, old_logps=old)
    torch.testing.assert_close(theirs_loss, -clipped.mean(), **TOLERANCE)
    assert abs(float(theirs_loss - our_loss("sequence_mean_token_sum"))) > 0.1
