"""Rows that are not finite end a run, or are left out up to a share; either way they are saved."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.batch import from_completions
from rlhf.errors import NumericError
from rlhf.not_finite import SkipBatch, StopAtOnce
from rlhf.ppo.finite_rows import FiniteRows

NAN, INF = float("nan"), float("inf")
ROLLOUT = from_completions([[5]] * 4, [[6, 7], [8], [9, 1], [2]], [[-1.0] * k for k in (2, 1, 2, 1)], [True] * 4, 0, 0)
SCORES = torch.tensor([0.0, NAN, -INF, 1.0])


def test_the_first_row_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    rows = FiniteRows(StopAtOnce(), tmp_path / "failures")
    with pytest.raises(NumericError, match=r"step 3, role reward\.style: 2 of 4 rows of its scores are not finite"):
        rows.bad(2, "reward.style", ROLLOUT, SCORES)
    saved = load_file(tmp_path / "failures" / "step_000003_reward.style.safetensors")
    assert torch.equal(saved["tokens"], ROLLOUT.tokens) and torch.equal(saved["scores"].isfinite(), SCORES.isfinite())


def test_rows_are_left_out_up_to_a_share(tmp_path: Path) -> None:
    half = FiniteRows(SkipBatch(kind="skip", max_fraction=0.5), tmp_path)
    assert half.bad(0, "reward", ROLLOUT, SCORES).tolist() == [False, True, True, False]
    assert (tmp_path / "step_000001_reward.safetensors").is_file()
    third = FiniteRows(SkipBatch(kind="skip", max_fraction=0.3), tmp_path)
    with pytest.raises(NumericError, match=r"2 of 4 rows .*; that is more than not_finite.max_fraction = 0.3; look"):
        third.bad(0, "reward", ROLLOUT, SCORES)


def test_only_tokens_of_the_response_count(tmp_path: Path) -> None:
    rows = FiniteRows(SkipBatch(kind="skip", max_fraction=1.0), tmp_path)
    values = torch.zeros(ROLLOUT.tokens.shape).masked_fill(~ROLLOUT.response_mask, NAN)
    assert not rows.bad(0, "critic", ROLLOUT, values).any() and not list(tmp_path.iterdir())
    values[2][ROLLOUT.response_mask[2]] = INF
    assert rows.bad(0, "critic", ROLLOUT, values).tolist() == [False, False, True, False]
