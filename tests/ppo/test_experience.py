"""From a scored rollout to an experience, and what a step says of it."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rlhf.batch import Experience, Rollout, select
from rlhf.metrics import values
from rlhf.ppo.experience import Passes, describe, describe_gap, kl_per_response, make_experience, penalised
from tests.ppo import fakes

MASK = torch.tensor([[False, True, True, True, False], [False, False, True, True, True]])
SCORES = torch.tensor([1.0, -2.0])
FINISHED = torch.tensor([True, False])


def rollout() -> Rollout:
    tokens = torch.arange(10).view(2, 5)
    attention = torch.tensor([[True, True, True, True, False], [True] * 5])
    return Rollout(tokens, attention, MASK, torch.where(MASK, -1.0, 0.0), FINISHED, policy_version=7)


def golden_row(numbers: tuple[float, float, float]) -> torch.Tensor:
    """The three numbers in the response slots of both rows."""
    return torch.zeros(2, 5).masked_scatter(MASK, torch.tensor([*numbers, *numbers]))


OLD, REF, VALUES = golden_row((-1, -2, -0.5)), golden_row((-1.2, -1.5, -0.6)), golden_row((0.1, 0.2, 0.3))
NONE = torch.zeros(2, dtype=torch.bool)
PASSES = Passes(SCORES, NONE, OLD, REF, VALUES, torch.tensor([0, 0]), torch.tensor([0.5, 0.5]))


def made(kl_coef: float = 0.01, **changes):
    settings = {"ppo": {"advantage": {"kind": "gae", "gae_lambda": 1.0, "whiten": False}}, **changes}
    return make_experience(rollout(), PASSES, kl_coef, fakes.config(**settings))


@pytest.mark.parametrize(
    ("missing_eos", "wanted"),
    [
        ({"kind": "none"}, [3.0, 3.0]),
        ({"kind": "subtract", "amount": 1.5}, [3.0, 1.5]),
        ({"kind": "override", "score": -1.0}, [3.0, -1.0]),
    ],
)
def test_what_missing_eos_does_to_a_score(missing_eos, wanted) -> None:
    config = fakes.config(reward={"model": "r", "missing_eos": missing_eos}).reward
    assert penalised(torch.tensor([3.0, 3.0]), torch.tensor([True, False]), config).tolist() == wanted


@pytest.mark.parametrize(
    ("penalty", "wanted"),
    [
        ({"kind": "linear", "per_token": 0.5, "free": 1}, [0.0, -3.0]),
        ({"kind": "soft_overlong", "buffer": 2, "scale": 2.0}, [0.0, -3.0]),
    ],
)
def test_a_length_penalty_comes_before_the_treatment_of_truncation(penalty: dict, wanted: list[float]) -> None:
    """Both responses have three tokens; the limit is four."""
    settings = {"reward": {"model": "r", "length_penalty": penalty}, "kl": {"place": "loss"}}
    config = fakes.config(rollout={"prompts_per_step": 2, "max_new_tokens": 4}, **settings)
    assert make_experience(rollout(), PASSES, 0.0, config).rewards[[0, 1], [3, 4]].tolist() == wanted


@pytest.mark.parametrize(("score", "placed"), [(14.0, 9.0), (99.0, 10.0), (-99.0, -10.0)])
def test_a_penalty_is_taken_from_the_raw_score_and_clipping_comes_last(score: float, placed: float) -> None:
    reward = {"model": "r", "clip": 10.0, "missing_eos": {"kind": "subtract", "amount": 5.0}}
    passes = replace(PASSES, scores=torch.tensor([0.0, score]))
    settings = {"reward": reward, "kl": {"place": "loss"}}
    assert float(make_experience(rollout(), passes, 0.0, fakes.config(**settings)).rewards[1, 4]) == placed


def test_golden_rewards_advantages_and_returns() -> None:
    experience = made()
    torch.testing.assert_close(experience.rewards, golden_row((-0.002, 0.005, 0.999)) - 3.0 * last_of_second_row())
    first = torch.tensor([0.0, 0.902, 0.804, 0.699, 0.0])
    torch.testing.assert_close(experience.advantages[0], first, atol=1e-6, rtol=0)
    torch.testing.assert_close(experience.returns[0], torch.tensor([0.0, 1.002, 1.004, 0.999, 0.0]), atol=1e-6, rtol=0)
    for numbers in (experience.rewards, experience.advantages, experience.returns):
        assert not numbers[~MASK].any()


def last_of_second_row() -> torch.Tensor:
    """The second row scored −2 where the golden row scored 1."""
    return torch.tensor([[0.0] * 5, [0.0] * 4 + [1.0]])


def test_whitening_takes_the_whole_batch_together() -> None:
    advantages = made(ppo={"advantage": {"kind": "gae", "whiten": True}}).advantages[MASK].double()
    assert float(advantages.mean()) == pytest.approx(0, abs=1e-6)
    assert float(advantages.square().mean()) == pytest.approx(1, abs=1e-5)
    assert abs(float(advantages[:3].mean())) > 0.5  # not each row by itself


def test_kl_stands_in_the_reward_or_in_the_loss_never_in_both() -> None:
    rewards = made(kl={"place": "loss"}).rewards
    assert rewards.tolist() == [[0, 0, 0, 1, 0], [0, 0, 0, 0, -2]]


@pytest.mark.parametrize(("estimator", "wanted"), [("k1", 0.2), ("k2", 0.02), ("k3", math.exp(-0.2) - 1 + 0.2)])
def test_the_estimator_of_the_config_is_the_one_in_the_reward(estimator: str, wanted: float) -> None:
    assert float(made(kl_coef=1.0, kl={"estimator": estimator}).rewards[0, 1]) == pytest.approx(-wanted, abs=1e-6)


def test_all_truncated_and_responses_of_one_token() -> None:
    mask = torch.tensor([[False, True]] * 3)
    whole = torch.ones(3, 2, dtype=torch.bool)
    cut = Rollout(torch.ones(3, 2).long(), whole, mask, torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), 0)
    config = fakes.config(reward={"model": "r", "missing_eos": {"kind": "override", "score": -1.0}})
    zeros = torch.zeros(3, 2)
    scores = torch.tensor([1.0, 2.0, 3.0])
    passes = Passes(scores, torch.zeros(3, dtype=torch.bool), zeros, zeros, zeros, torch.arange(3), torch.zeros(3))
    experience = make_experience(cut, passes, 0.1, config)
    assert experience.rewards.tolist() == [[0, -1]] * 3
    assert experience.returns.tolist() == [[0, -1]] * 3
    assert not experience.advantages.any()  # all alike: nothing is better than the mean
    assert values(describe(cut, passes, experience, config))["response/truncated_fraction"] == 1.0


@pytest.mark.parametrize("kind", ["gae", "grpo", "rloo", "reinforce_pp"])
def test_a_row_without_a_score_leaves_the_step(kind: str) -> None:
    """What is learned from the others is what would be learned if it had not been sampled."""
    mask, groups = torch.tensor([[False, True, True]] * 4), torch.tensor([0, 0, 0, 0])
    whole = torch.ones(4, 3, dtype=torch.bool)
    rollout = Rollout(torch.ones(4, 3).long(), whole, mask, torch.zeros(4, 3), torch.ones(4, dtype=torch.bool), 0)
    zeros, scores = torch.zeros(4, 3), torch.tensor([1.0, 2.0, 6.0, 1e6])
    failed = torch.tensor([False, False, False, True])
    group = {} if kind == "gae" else {"critic": None, "rollout": {"responses_per_prompt": 4}}
    config = fakes.config(ppo={"advantage": {"kind": kind}}, reward={"model": "r", "clip": 1e9}, **group)

    def made_of(rows: slice) -> Experience:
        some = [each[rows] for each in (scores, failed, zeros, zeros, zeros, groups, scores)]
        return make_experience(select(rollout, range(4)[rows]), Passes(*some), 0.1, config)

    every, without = made_of(slice(4)), made_of(slice(3))
    assert not every.response_mask[3].any() and not every.advantages[3].any()
    torch.testing.assert_close(every.advantages[:3], without.advantages)
    assert torch.equal(every.response_mask[:3], without.response_mask)
    numbers = values(describe(rollout, Passes(scores, failed, zeros, zeros, zeros, groups, scores), every, config))
    assert numbers["reward/score"] == 3.0


def test_describe_counts_tokens_and_rows() -> None:
    numbers = values(describe(rollout(), PASSES, made(), fakes.config()))
    wanted = {
        "reward/score": -0.5, "kl/per_token": -0.2 / 3, "kl/per_response": -0.2, "response/length_mean": 3.0,
        "response/length_max": 3.0, "response/truncated_fraction": 0.5,
    }
    assert {name: numbers[name] for name in wanted} == pytest.approx(wanted, abs=1e-6)
    assert set(numbers) == {*wanted, "value/explained_variance"}


def test_the_gap_is_that_of_sampled_tokens() -> None:
    numbers, gap = values(describe_gap(rollout(), OLD)), [0.0, 1.0, 0.5] * 2
    assert numbers == pytest.approx({"sync/logprob_gap_max": 1.0, "sync/logprob_gap_mean": sum(gap) / 6})


def test_kl_of_each_response() -> None:
    assert kl_per_response(rollout(), made()).tolist() == pytest.approx([-0.2, -0.2], abs=1e-6)
