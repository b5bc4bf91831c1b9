"""KL estimators and the adaptive coefficient."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.objectives.kl import adapt_coefficient, kl_estimate


def estimate(log_ratio: float, estimator) -> float:
    return float(kl_estimate(torch.tensor([log_ratio]), torch.zeros(1), estimator))


@pytest.mark.parametrize(("estimator", "wanted"), [("k1", 0.6931), ("k2", 0.2402), ("k3", 0.1931)])
def test_estimators_at_log_ratio_ln_2(estimator: str, wanted: float) -> None:
    assert estimate(math.log(2), estimator) == pytest.approx(wanted, abs=5e-5)


@pytest.mark.parametrize(
    ("estimator", "log_ratio", "wanted"),
    [("k1", 11, 10), ("k1", -11, -10), ("k1", 9, 9), ("k2", 5, 10), ("k2", -5, 10), ("k3", 40, 10), ("k3", -4, 10),
     ("k3", -200, 10), ("k1", math.inf, 10), ("k2", -math.inf, 10)],
)
def test_estimates_are_clamped_to_ten_nats(estimator: str, log_ratio: float, wanted: float) -> None:
    assert estimate(log_ratio, estimator) == wanted


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
@pytest.mark.parametrize("log_ratio", [-200.0, -12.0, 12.0, 200.0])
def test_a_clamped_estimate_has_no_gradient(estimator: str, log_ratio: float) -> None:
    """In the loss, e^200 overflows float32: what is clamped must give 0, not 0 · ∞."""
    logprobs = torch.tensor([log_ratio], requires_grad=True)
    kl_estimate(logprobs, torch.zeros(1), estimator).sum().backward()
    assert float(logprobs.grad) == 0.0


def test_k1_and_k3_agree_in_expectation_and_k3_is_never_negative() -> None:
    policy, reference = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])
    exact = float((policy * (policy / reference).log()).sum())
    for estimator in ("k1", "k3"):
        terms = kl_estimate(policy.log(), reference.log(), estimator)
        assert float((policy * terms).sum()) == pytest.approx(exact, abs=1e-6)
    assert bool((kl_estimate(torch.randn(100), torch.randn(100), "k3") >= 0).all())


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match="choose k1, k2 or k3"):
        kl_estimate(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize(
    ("kl", "wanted"),
    [(6.0, 0.1), (6.6, 0.1 * (1 + 0.1 * 0.01)), (60.0, 0.1 * (1 + 0.2 * 0.01)), (0.0, 0.1 * (1 - 0.2 * 0.01)),
     (-3.0, 0.1 * (1 - 0.2 * 0.01))],
)
def test_adaptive_coefficient(kl: float, wanted: float) -> None:
    """Target 6 nats, horizon 10,000, 100 responses: one percent of the clipped relative error."""
    assert adapt_coefficient(0.1, kl, target=6.0, horizon=10_000, samples=100) == pytest.approx(wanted, rel=1e-12)
