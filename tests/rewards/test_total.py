"""The weighted sum of the parts: routed by source, in the units asked for, without the rows that failed."""

from __future__ import annotations

import math

import pytest
import torch

from rlhf.config import validate
from rlhf.metrics import values
from rlhf.ppo.config import RewardConfig
from rlhf.rewards.total import describe_parts, total

NAN = math.nan
SOURCES = ["math", "chat", "math", "chat"]


def parts_of(**parts: dict) -> RewardConfig:
    rules = {name: {"kind": "json", **part} for name, part in parts.items()}
    return validate(RewardConfig, {"model": "m", "parts": rules})


def found(config: RewardConfig, rows: list[list[float]]):
    return total(torch.tensor(rows), SOURCES, config.contributions())


def test_parts_are_summed_with_their_weights() -> None:
    config = parts_of(a={"weight": 0.5}, b={"weight": -2.0})
    reward = found(config, [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    assert reward.scores.tolist() == [1.0 + 1.0 - 6.0, 0.0, 1.0, -2.0]
    assert not reward.failed.any()


def test_a_part_scores_its_own_sources_alone() -> None:
    config = parts_of(a={"sources": ["math"]})
    reward = found(config, [[0.0, 5.0]] * 4)
    assert reward.scores.tolist() == [5.0, 0.0, 5.0, 0.0]
    assert reward.applies.tolist() == [[True, True], [True, False], [True, True], [True, False]]


def test_a_row_that_a_part_failed_on_has_no_score_at_all() -> None:
    config = parts_of(a={"sources": ["math"]})
    reward = found(config, [[1.0, NAN], [1.0, NAN], [2.0, 3.0], [4.0, 0.0]])
    assert reward.failed.tolist() == [True, False, False, False]  # nobody asked `a` for the second
    assert reward.scores.tolist() == [0.0, 1.0, 5.0, 4.0]
    assert reward.without_score() == [["a"], [], [], []]
    assert reward.shown()["a"].isnan().tolist() == [True, True, False, True]


def test_numbers_of_parts_leave_failures_out() -> None:
    config = parts_of(a={"sources": ["math"]}, b={})
    sheet = torch.tensor([[1.0, NAN, 1.0], [1.0, 0.0, 2.0], [2.0, 3.0, 3.0], [4.0, 0.0, NAN]])
    reward = total(sheet, SOURCES, config.contributions())
    assert values(describe_parts(reward)) == {
        "reward/failed_fraction": 0.5, "reward/part/model": 2.0, "reward/part/a": 3.0, "reward/part/b": 2.0,
    }


def test_normalisation_is_over_the_rows_that_count() -> None:
    config = parts_of(a={"sources": ["math"], "normalise": {"kind": "batch"}, "weight": 3.0})
    reward = found(config, [[0.0, 10.0], [0.0, 99.0], [0.0, 20.0], [0.0, 99.0]])
    assert reward.scores.tolist() == pytest.approx([-3.0, 0.0, 3.0, 0.0])
    config = parts_of(a={"normalise": {"kind": "fixed", "mean": 10.0, "deviation": 5.0}})
    assert found(config, [[1.0, 20.0]] * 4).scores.tolist() == [3.0] * 4


def test_equal_scores_become_zero_and_an_empty_part_is_no_trouble() -> None:
    config = parts_of(a={"normalise": {"kind": "batch"}}, b={"sources": ["none"], "normalise": {"kind": "batch"}})
    reward = found(config, [[0.0, 7.0, 1.0]] * 4)
    assert reward.scores.tolist() == [0.0] * 4
