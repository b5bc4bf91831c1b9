"""Our advantages, losses and gradients equal those that TRL's trainers compute, where the definitions coincide."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from rlhf.objectives.correction import icepop, sequence_tis, token_tis
from rlhf.objectives.group import group_relative, leave_one_out, without
from rlhf.objectives.kl import kl_estimate
from rlhf.objectives.length import soft_overlong_penalty
from rlhf.objectives.policy import cispo_terms, gspo_terms, ppo_terms
from rlhf.objectives.reduction import row_weights, step_totals, weighted_sum
from rlhf.objectives.returns import spread
from tests.objectives import trl_trainers as trl

TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}
LIMIT = 10
# Two prompts, four responses to each, the first with observations between its turns.
LENGTHS = torch.tensor([7, 9, 1, 4, 9, 2, 5, 3])
MASK = torch.arange(9)[None, :] < LENGTHS[:, None]
MASK[0, 2:5] = False
GENERATOR = torch.Generator().manual_seed(11)
OLD = -2 * torch.rand(8, 9, generator=GENERATOR)
LOGPROBS = OLD + torch.randn(8, 9, generator=GENERATOR) / 2
REF = OLD + torch.randn(8, 9, generator=GENERATOR) / 2
SAMPLER = OLD + torch.randn(8, 9, generator=GENERATOR) / 2
ADVANTAGES = torch.randn(8, generator=GENERATOR)
SCORES = [0.5, -1.25, 3.0, 0.75, 0.1, 0.1, 0.7, 0.1]
PROMPTS = torch.arange(8) // 4


def ours(loss, reduction: str, extra: Tensor | None = None, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Our loss of the batch and its gradient; `weights` multiply the terms, the KL penalty is not weighted."""
    logprobs = LOGPROBS.clone().requires_grad_()
    terms = loss(logprobs, OLD, spread(ADVANTAGES, MASK), MASK).terms
    terms = terms if weights is None else terms * weights
    if extra is not None:
        terms = terms + 0.3 * torch.where(MASK, kl_estimate(logprobs, extra, "k3"), 0.0)
    lengths = MASK.sum(dim=1)
    total = weighted_sum(terms, row_weights(lengths, reduction, step_totals(lengths, LIMIT)))
    total.backward()
    return total.detach(), logprobs.grad


def assert_same(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> None:
    for name, got, expected in zip(("loss", "gradient"), found, wanted, strict=True):
        torch.testing.assert_close(got, expected, msg=lambda text, name=name: f"{name}: {text}", **TOLERANCE)
    assert found[1].any()


@pytest.fixture
def grpo(tiny_models, tmp_path):
    return partial(trl.grpo, tiny_models.tied, tmp_path, 8, 4, max_completion_length=LIMIT)


@pytest.fixture
def rloo(tiny_models, tmp_path):
    return partial(trl.rloo, tiny_models.tied, tmp_path, 8, 4, max_completion_length=LIMIT)


@pytest.mark.parametrize("scale", [True, False])
@pytest.mark.parametrize("scores", [SCORES, [0.0] * 4 + [1.0, 0.0, 0.0, 1.0]])
def test_group_relative_advantages(grpo, scores: list[float], scale: bool) -> None:
    wanted = trl.advantages(grpo(scale_rewards="group" if scale else "none"), scores)
    torch.testing.assert_close(group_relative(torch.tensor(scores), PROMPTS, scale), wanted, **TOLERANCE)


def test_leave_one_out_advantages(rloo) -> None:
    wanted = trl.advantages(rloo(beta=0.0), SCORES)
    torch.testing.assert_close(leave_one_out(torch.tensor(SCORES), PROMPTS), wanted, **TOLERANCE)


def test_a_lone_response_has_no_advantage(rloo) -> None:
    """A group of which one response alone has a score."""
    wanted = trl.advantages(rloo(beta=0.0), [1.0, None, None, None, *SCORES[4:]])
    out = torch.tensor([False, True, True, True] + [False] * 4)
    found = leave_one_out(torch.tensor(SCORES), without(out, PROMPTS))
    assert not found[:4].any()
    torch.testing.assert_close(found, wanted, **TOLERANCE)


@pytest.mark.parametrize("kind", ["grpo", "rloo"])
def test_a_response_without_score_leaves_its_group(grpo, rloo, kind: str) -> None:
    """TRL gives it advantage 0 and the others their group without it; we drop it, and groups differ in size."""
    scores: list[float | None] = [*SCORES]
    scores[1] = scores[6] = scores[7] = None
    scored = torch.tensor([score is not None for score in scores])
    given = torch.tensor([score for score in scores if score is not None])
    trainer, estimator = (grpo(), partial(group_relative, scale=True)) if kind == "grpo" else (
        rloo(beta=0.0), leave_one_out
    )
    wanted = trl.advantages(trainer, scores)
    torch.testing.assert_close(estimator(given, PROMPTS[scored]), wanted[scored], **TOLERANCE)
    assert not wanted[~scored].any()


@pytest.mark.parametrize(
    ("loss_type", "reduction"),
    [("dapo", "token_mean"), ("bnpo", "token_mean"), ("grpo", "sequence_mean_token_mean"),
     ("luspo", "sequence_mean_token_sum"), ("dr_grpo", "sequence_mean_token_sum_norm")],
)
@pytest.mark.parametrize(
    ("clips", "loss"),
    [
        ({"epsilon": 0.2}, partial(ppo_terms, clip_low=0.2, clip_high=0.2)),
        ({"epsilon": 0.2, "epsilon_high": 0.28}, partial(ppo_terms, clip_low=0.2, clip_high=0.28)),
        ({"epsilon": 0.1, "delta": 1.5}, partial(ppo_terms, clip_low=0.1, clip_high=0.1, dual_clip=1.5)),
    ],
    ids=["clip", "clip-higher", "dual clip"],
)
def test_clipped_losses(grpo, loss_type: str, reduction: str, clips: dict, loss) -> None:
    trainer = grpo(loss_type=loss_type, **clips)
    wanted = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, MASK, old_per_token_logps=OLD)
    assert_same(ours(loss, reduction), wanted)


@pytest.mark.parametrize(("loss_type", "reduction"), [("grpo", "sequence_mean_token_mean"), ("dapo", "token_mean")])
def test_gspo(grpo, loss_type: str, reduction: str) -> None:
    trainer = grpo(loss_type=loss_type, importance_sampling_level="sequence", epsilon=0.02, epsilon_high=0.04)
    wanted = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, MASK, old_per_token_logps=OLD)
    assert_same(ours(partial(gspo_terms, clip_low=0.02, clip_high=0.04), reduction), wanted)


def test_cispo(grpo) -> None:
    """TRL's epsilon_high is the bound itself, ours its distance from 1; neither has a lower one here."""
    wanted = trl.loss_and_gradient(
        grpo(loss_type="cispo", epsilon_high=1.28), LOGPROBS, ADVANTAGES, MASK, old_per_token_logps=OLD
    )
    assert_same(ours(partial(cispo_terms, clip_low=1.0, clip_high=0.28), "token_mean"), wanted)


@pytest.mark.parametrize(("loss_type", "reduction"), [("grpo", "sequence_mean_token_mean"), ("dapo", "token_mean")])
def test_kl_in_the_loss(grpo, loss_type: str, reduction: str) -> None:
    trainer = grpo(loss_type=loss_type, beta=0.3, use_bias_correction_kl=False)
    given = {"old_per_token_logps": OLD, "ref_per_token_logps": REF}
    wanted = trl.loss_and_gradient(trainer, LOGPROBS, ADVANTAGES, MASK, **given)
    assert_same(ours(partial(ppo_terms, clip_low=0.2, clip_high=0.2), reduction, extra=REF), wanted)


@pytest.mark.parametrize(
    ("mode", "low", "high", "correction"),
    [
        ("token_truncate", None, 1.3, partial(token_tis, cap=1.3)),
        ("sequence_truncate", None, 1.3, partial(sequence_tis, cap=1.3)),
        ("token_mask", 0.7, 1.5, partial(icepop, low=0.7, high=1.5)),
    ],
)
def test_importance_correction(grpo, mode: str, low: float | None, high: float, correction) -> None:
    """Weights of TRL's rollout phase, then the loss that they multiply."""
    lengths = LENGTHS.tolist()
    trainer = grpo(
        loss_type="dapo", vllm_importance_sampling_mode=mode, vllm_importance_sampling_clip_min=low,
        vllm_importance_sampling_clip_max=high,
    )
    policy, trainer.model, trainer.use_vllm = trainer.model, trl.Table(OLD), True
    sampled = [SAMPLER[row, :length].tolist() for row, length in enumerate(lengths)]
    made = trl.experience(trainer, [[5] * length for length in lengths], SCORES, sampled)
    trainer.model = policy
    whole = torch.arange(9)[None, :] < LENGTHS[:, None]
    found = correction(OLD, SAMPLER, whole)
    ratio = made["importance_sampling_ratio"].expand(8, 9)
    torch.testing.assert_close(found.weights[whole], ratio[whole], **TOLERANCE)
    assert 0 < float(found.changed) < whole.sum()
    wanted = trl.loss_and_gradient(
        trainer, LOGPROBS, ADVANTAGES, MASK, old_per_token_logps=OLD, importance_sampling_ratio=found.weights
    )
    assert_same(ours(partial(ppo_terms, clip_low=0.2, clip_high=0.2), "token_mean", weights=found.weights), wanted)


def test_overlong_penalty() -> None:
    from trl.rewards import get_soft_overlong_punishment

    lengths = torch.arange(0, 40)
    wanted = get_soft_overlong_punishment(30, 12)([[1] * length for length in lengths.tolist()])
    torch.testing.assert_close(soft_overlong_penalty(lengths, 30, 12), torch.tensor(wanted), **TOLERANCE)
