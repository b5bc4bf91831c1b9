"""Advantages from scores alone: golden groups, groups of one, equal scores, and rows in any order."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from rlhf.objectives.advantages import whiten
from rlhf.objectives.group import (
    greedy_baseline,
    group_mean_baseline,
    group_relative,
    informative_groups,
    leave_one_out,
    without,
)
from rlhf.objectives.returns import spread

# Group 7 has 1, 2, 3; group −1 has 4 and 0; their rows are mixed.
SCORES = torch.tensor([1.0, 4.0, 3.0, 2.0, 0.0])
GROUPS = torch.tensor([7, -1, 7, 7, -1])
ESTIMATORS = {
    "grpo": partial(group_relative, scale=True), "dr_grpo": partial(group_relative, scale=False),
    "mean": group_mean_baseline, "rloo": leave_one_out,
}


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("dr_grpo", [-1.0, 2.0, 1.0, 0.0, -2.0]),
        ("mean", [-1.0, 2.0, 1.0, 0.0, -2.0]),
        ("rloo", [-1.5, 4.0, 1.5, 0.0, -4.0]),
        # Unbiased deviations 1 and √8, plus 1e-4.
        ("grpo", [-0.99990001, 0.70708178, 0.99990001, 0.0, -0.70708178]),
    ],
)
def test_golden_groups(kind: str, wanted: list[float]) -> None:
    found = ESTIMATORS[kind](SCORES, GROUPS)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, torch.tensor(wanted), atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "mean"])
def test_a_group_of_one_has_no_advantage(kind: str) -> None:
    found = ESTIMATORS[kind](torch.tensor([5.0, 1.0, 2.0]), torch.tensor([0, 1, 1]))
    assert float(found[0]) == 0.0 and bool((found[1:] != 0).all())


@pytest.mark.parametrize("kind", list(ESTIMATORS))
def test_a_group_of_one_has_nothing_to_be_compared_with(kind: str) -> None:
    found = ESTIMATORS[kind](torch.tensor([5.0, 1.0, 2.0]), torch.tensor([9, 1, 1]))
    assert found[0] == 0.0 and found[1] == -found[2] != 0.0


@pytest.mark.parametrize("kind", list(ESTIMATORS))
def test_rows_left_out_of_their_group_do_not_count_in_it(kind: str) -> None:
    groups, out = torch.tensor([7, 7, 7, -1, -1]), torch.tensor([False, True, False, True, False])
    apart = without(out, groups)
    assert apart.unique(return_counts=True)[1].tolist() == [1, 2, 1, 1]
    found = ESTIMATORS[kind](torch.tensor([1.0, 1e9, 3.0, 5.0, 6.0]), apart)
    wanted = ESTIMATORS[kind](torch.tensor([1.0, 0, 3.0]), torch.tensor([0, 1, 0]))
    assert found.tolist() == [*wanted.tolist(), 0.0, 0.0]
    assert torch.equal(without(torch.zeros(5, dtype=torch.bool), groups), groups)


@pytest.mark.parametrize("kind", list(ESTIMATORS))
@pytest.mark.parametrize("count", [2, 3, 7, 1000])
@pytest.mark.parametrize("score", [0.0, 0.1, -1234.567, 1e-30])
def test_equal_scores_give_exactly_no_advantage(kind: str, count: int, score: float) -> None:
    """And not their rounding: 0.1 is no binary fraction."""
    found = ESTIMATORS[kind](torch.full((count,), score), torch.zeros(count, dtype=torch.int64))
    assert not found.any()


def test_the_rounding_of_a_reward_model_is_not_blown_up() -> None:
    scores = torch.tensor([1.0, 1.0000001, 1.0, 1.0000001])
    assert float(group_relative(scores, torch.zeros(4).long(), scale=True).abs().max()) < 1e-3


@pytest.mark.parametrize("kind", list(ESTIMATORS))
def test_rows_may_come_in_any_order_and_ids_are_only_names(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scores, groups = torch.randn(24, generator=generator), torch.arange(24) % 5
    order = torch.randperm(24, generator=generator)
    whole = ESTIMATORS[kind](scores, groups)
    torch.testing.assert_close(ESTIMATORS[kind](scores[order], groups[order]), whole[order], atol=1e-6, rtol=0)
    renamed = torch.tensor([2**40, -3, 17, 0, 1])[groups]
    torch.testing.assert_close(ESTIMATORS[kind](scores, renamed), whole, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", list(ESTIMATORS))
def test_groups_know_nothing_of_each_other(kind: str) -> None:
    alone = ESTIMATORS[kind](SCORES[GROUPS == 7], GROUPS[GROUPS == 7])
    together = ESTIMATORS[kind](SCORES, GROUPS)[GROUPS == 7]
    torch.testing.assert_close(together, alone, atol=1e-7, rtol=0)


@pytest.mark.parametrize("kind", list(ESTIMATORS))
def test_a_shift_of_a_group_changes_nothing(kind: str) -> None:
    shifted = SCORES + torch.where(GROUPS == 7, 8.0, -16.0)
    torch.testing.assert_close(ESTIMATORS[kind](shifted, GROUPS), ESTIMATORS[kind](SCORES, GROUPS), atol=1e-6, rtol=0)


def test_scale_is_forgotten_by_grpo_alone() -> None:
    scaled = {kind: estimator(8 * SCORES, GROUPS) for kind, estimator in ESTIMATORS.items()}
    torch.testing.assert_close(scaled.pop("grpo"), ESTIMATORS["grpo"](SCORES, GROUPS), atol=2e-4, rtol=0)
    for kind, found in scaled.items():
        assert torch.equal(found, 8 * ESTIMATORS[kind](SCORES, GROUPS))


def test_reinforce_plus_plus_with_baseline_whitens_over_the_batch() -> None:
    """Five responses of one token: deviations −1, 2, 1, 0, −2 with biased deviation √2."""
    mask = torch.ones(5, 1, dtype=torch.bool)
    found = whiten(spread(group_mean_baseline(SCORES, GROUPS), mask), mask)[:, 0]
    wanted = torch.tensor([-0.70710678, 1.41421356, 0.70710678, 0.0, -1.41421356])
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=0)


def test_remax_compares_with_the_greedy_response() -> None:
    assert greedy_baseline(SCORES, torch.tensor([2.0, 2.0, 2.0, 0.5, 0.5])).tolist() == [-1.0, 2.0, 1.0, 1.5, -0.5]


def test_remax_wants_a_greedy_score_per_response() -> None:
    with pytest.raises(ValueError, match=r"\[5\] scores, \[2\] greedy scores"):
        greedy_baseline(SCORES, torch.zeros(2))
    with pytest.raises(ValueError, match="one greedy score per response"):
        greedy_baseline(SCORES, torch.zeros(1))


def informative(*rows: tuple[int, float]) -> list[bool]:
    groups, scores = zip(*rows, strict=True)
    return informative_groups(torch.tensor(scores), torch.tensor(groups)).tolist()


def test_informative_groups_have_two_different_scores() -> None:
    assert informative((0, 1.0), (1, 0.0), (0, 0.0), (1, 0.0)) == [True, False, True, False]
    assert informative((3, 1.0), (4, 0.1), (4, 0.1), (4, 0.1)) == [False] * 4
    assert informative((0, 0.0), (0, -0.0), (1, -5.0), (1, -4.0)) == [False, False, True, True]


def test_what_is_not_informative_has_no_advantage() -> None:
    scores = torch.tensor([1.0, 1.0, 0.0, 1.0, 0.3, 0.3, 0.3])
    groups = torch.tensor([0, 0, 1, 1, 2, 2, 2])
    rows: Tensor = informative_groups(scores, groups)
    assert rows.tolist() == [False, False, True, True, False, False, False]
    for estimator in ESTIMATORS.values():
        found = estimator(scores, groups)
        assert not found[~rows].any() and bool(found[rows].all())
