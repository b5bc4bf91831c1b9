"""The trained roles as objectives of a learner: token sums, and the KL penalty where the config places it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.batch import Experience
from rlhf.metrics import values
from rlhf.objectives.reduction import StepTotals
from rlhf.ppo.objectives import CriticObjective, PolicyObjective
from tests.ppo import fakes

MASK = torch.tensor([[False, True, True, False, True]])
ONE = StepTotals(tokens=1, responses=1, max_new_tokens=1)  # so that a token mean is the sum


def experience(dirt: float = 0.0, **given: Tensor) -> Experience:
    """Numbers inside the mask, `dirt` outside."""
    generator = torch.Generator().manual_seed(5)
    names = ("old_logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "weights")
    given = {"weights": torch.ones(1, 5), **given}
    numbers = {name: given.get(name, torch.randn(1, 5, generator=generator) / 10) for name in names}
    spoilt = {name: torch.where(MASK, tensor, torch.full_like(tensor, dirt)) for name, tensor in numbers.items()}
    return Experience(torch.ones(1, 5).long(), torch.ones(1, 5, dtype=torch.bool), MASK, **spoilt)


def policy(**kl) -> PolicyObjective:
    config = fakes.config(kl=kl)
    return PolicyObjective(config.ppo, config.kl)


def policy_gradient(objective: PolicyObjective, batch: Experience) -> tuple[float, Tensor]:
    logprobs = torch.linspace(-0.1, 0.1, 5).view(1, 5).requires_grad_()
    loss = objective.loss((logprobs, torch.ones(1, 5)), batch, ONE)
    loss.total.backward()
    return float(loss.total.detach()), logprobs.grad


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_in_the_loss_adds_beta_times_the_estimate(estimator: str) -> None:
    batch = experience()
    plain, plain_gradient = policy_gradient(policy(), batch)
    objective = policy(place="loss", estimator=estimator)
    objective.kl_coef = 0.7
    total, gradient = policy_gradient(objective, batch)
    x = (torch.linspace(-0.1, 0.1, 5).view(1, 5) - batch.ref_logprobs)[MASK]
    estimate = {"k1": x, "k2": x**2 / 2, "k3": (-x).exp() - 1 + x}[estimator]
    slope = {"k1": torch.ones(3), "k2": x, "k3": 1 - (-x).exp()}[estimator]
    assert total - plain == pytest.approx(0.7 * float(estimate.sum()), abs=1e-6)
    torch.testing.assert_close((gradient - plain_gradient)[MASK], 0.7 * slope, atol=1e-6, rtol=0)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("place", ["reward", "loss"])
@pytest.mark.parametrize("dirt", [math.nan, math.inf])
def test_what_lies_outside_the_mask_does_not_reach_the_policy(estimator: str, place: str, dirt: float) -> None:
    objective = policy(place=place, estimator=estimator)
    total, gradient = policy_gradient(objective, experience(dirt))
    clean_total, clean_gradient = policy_gradient(objective, experience())
    assert total == clean_total and torch.equal(gradient, clean_gradient)
    assert not gradient[~MASK].any()


def test_policy_metrics_are_token_means() -> None:
    old = torch.zeros(1, 5)
    advantages = torch.tensor([[9.0, 1.0, -1.0, 9.0, 1.0]])
    logprobs = torch.tensor([[5.0, math.log(1.5), math.log(1.5), 5.0, 0.0]])
    entropy = torch.tensor([[9.0, 1.0, 2.0, 9.0, 3.0]])
    batch = experience(old_logprobs=old, advantages=advantages)
    numbers = values(policy().loss((logprobs, entropy), batch, ONE).metrics)
    assert numbers == pytest.approx({
        "policy/loss": -(1.2 - 1.5 + 1.0) / 3, "policy/clipfrac": 1 / 3, "policy/entropy": 2.0,
        "policy/approx_kl": 2 * (0.5 - math.log(1.5)) / 3,
    }, abs=1e-6)


@pytest.mark.parametrize("dirt", [0.0, math.nan, math.inf])
def test_critic_loss_is_a_token_sum_without_what_lies_outside(dirt: float) -> None:
    batch = experience(dirt, values=torch.zeros(1, 5), returns=torch.full((1, 5), 2.0))
    output = torch.tensor([[9.0, 1.0, 0.1, 9.0, 2.0]]).requires_grad_()
    loss = CriticObjective(fakes.config().ppo).loss(output, batch, ONE)
    loss.total.backward()
    # V 1 and 2 moved further than 0.2 from the old 0: the loss is that of 0.2, without gradient.
    assert values(loss.metrics) == pytest.approx({"value/loss": (1.62 + 1.805 + 1.62) / 3, "value/clipfrac": 2 / 3})
    assert output.grad.tolist() == [[0.0, 0.0, pytest.approx(-1.9), 0.0, 0.0]]
