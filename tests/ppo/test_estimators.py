"""Estimators on numbers worked out by hand, and which parts of a method go together."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from rlhf.errors import ConfigError
from rlhf.ppo.estimators import Estimate, Scored, estimator_of
from tests.ppo import fakes

# Two prompts with two responses each; the last slot of the first and the third row is padding.
MASK = torch.tensor([[True, True, False], [True, True, True], [True, True, False], [True, True, True]])
SCORES = torch.tensor([1.0, 3.0, 2.0, 2.0])
GROUPS = torch.tensor([0, 0, 1, 1])
PENALTY = torch.where(MASK, 0.5, 0.0)


def estimate(kind: str, penalty: Tensor | None = None, **more: float) -> Estimate:
    kl = torch.zeros(MASK.shape) if penalty is None else penalty
    method = fakes.method({"kind": kind, **more}).ppo.advantage
    values = torch.where(MASK, 0.25, 0.0)
    greedy = torch.tensor([0.5, 0.5, 3.0, 3.0])
    return estimator_of(method)(Scored(SCORES, torch.zeros_like(kl), kl, values, MASK, GROUPS, greedy, 10.0))


def of_first_tokens(estimated: Estimate) -> list[float]:
    return estimated.advantages[:, 0].tolist()


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("grpo", [-1 / (math.sqrt(2) + 1e-4), 1 / (math.sqrt(2) + 1e-4), 0.0, 0.0]),
        ("dr_grpo", [-1.0, 1.0, 0.0, 0.0]),
        ("rloo", [-2.0, 2.0, 0.0, 0.0]),
        ("remax", [0.5, 2.5, -1.0, -1.0]),
    ],
)
def test_the_baselined_score_stands_on_every_token(kind: str, wanted: list[float]) -> None:
    estimated = estimate(kind)
    for row, score in enumerate(wanted):
        assert estimated.advantages[row][MASK[row]].tolist() == pytest.approx([score] * int(MASK[row].sum()), abs=1e-6)
    assert not estimated.advantages[~MASK].any()


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "remax"])
def test_a_kl_penalty_counts_from_its_token_on(kind: str) -> None:
    plain, charged = estimate(kind).advantages, estimate(kind, PENALTY).advantages
    charges = plain - charged
    assert charges[0].tolist() == pytest.approx([1.0, 0.5, 0.0])
    assert charges[1].tolist() == pytest.approx([1.5, 1.0, 0.5])


def test_leave_one_out_compares_scores_with_their_whole_kl() -> None:
    # 1 − 1 = 0 against 3 − 1.5 = 1.5, and 2 − 1 = 1 against 2 − 1.5 = 0.5
    assert of_first_tokens(estimate("rloo", PENALTY)) == pytest.approx([-1.5, 1.5, 0.5, -0.5])


@pytest.mark.parametrize(("kind", "raw"), [("reinforce_pp", [1, 3, 2, 2]), ("reinforce_pp_baseline", [-1, 1, 0, 0])])
def test_reinforce_plus_plus_whitens_over_all_tokens(kind: str, raw: list[float]) -> None:
    tokens = torch.tensor([float(score) for score, row in zip(raw, MASK, strict=True) for _ in range(int(row.sum()))])
    wanted = (tokens - tokens.mean()) / tokens.std(correction=0)
    torch.testing.assert_close(estimate(kind).advantages[MASK], wanted, atol=1e-6, rtol=0)


def test_gamma_discounts_the_score_of_reinforce() -> None:
    raw = estimate("reinforce_pp", gamma=0.5).returns
    assert raw[1].tolist() == [0.75, 1.5, 3.0]


def test_gae_without_whitening() -> None:
    estimated = estimate("gae", gae_lambda=0.0, whiten=False)
    assert estimated.advantages[1].tolist() == [0.0, 0.0, 2.75]
    assert estimated.returns[1].tolist() == [0.25, 0.25, 3.0]


def test_what_is_placed_on_a_token_is_clipped_after_the_baseline() -> None:
    scored = Scored(torch.tensor([100.0, 104.0]), *[torch.zeros(2, 1)] * 3, torch.ones(2, 1).bool(),
                    torch.tensor([0, 0]), torch.zeros(2), 1.5)
    for kind, wanted in (("dr_grpo", [-1.5, 1.5]), ("rloo", [-1.5, 1.5]), ("reinforce_pp", [0.0, 0.0])):
        assert estimator_of(fakes.method({"kind": kind}).ppo.advantage)(scored).advantages[:, 0].tolist() == wanted


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"ppo": {"advantage": {"kind": "grpo"}}}, "critic: ppo.advantage.kind grpo uses none; set critic: null"),
        ({"critic": None}, "critic: ppo.advantage.kind gae needs one; name its model under critic.model"),
        (
            {"critic": None, "ppo": {"advantage": {"kind": "rloo"}}},
            r"rollout.responses_per_prompt \(1\): ppo.advantage.kind rloo compares the responses to a prompt and needs",
        ),
        (
            {"ppo": {"correction": {"kind": "icepop"}}, "rollout": {"prompts_per_step": 2, "top_p": 0.9}},
            "ppo.correction.kind icepop: needs rollout.top_p 1 and top_k -1; with a part of the vocabulary the ratio",
        ),
        (
            {"reward": {"model": "r", "length_penalty": {"kind": "soft_overlong", "buffer": 999}}},
            r"reward.length_penalty.buffer \(999\) is larger than rollout.max_new_tokens \(256\)",
        ),
        ({"ppo": {"minibatches": 3}}, r"ppo.minibatches \(3\) is larger than the 2 responses of a step"),
        ({"critic": None, "ppo": {"advantage": {"kind": "ppo"}}}, "ppo.advantage"),
    ],
)
def test_parts_that_do_not_go_together_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fakes.config(**changes)
