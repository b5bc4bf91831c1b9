"""A rollout as a file: every bit of it comes back, and what is no rollout is told."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path

import pandas
import pytest
import torch

from rlhf.batch import Prompt, PromptBatch, Rollout, from_completions
from rlhf.errors import DataError
from rlhf.metrics import Max, Mean, Sum
from rlhf.ppo.rollout_file import SavedRollout, ScoredRows, read_rollout, write_rollout

PARTS = ["model", "rule"]
PROMPTS = [
    Prompt("a", (5, 6), "问", "zh", {"deep": [1, {"x": None}]}, "math", ({"role": "user", "content": "问"},)),
    Prompt("b", (7,), "ask", "en"),
]


def rows(seed: int, count: int, version: int) -> ScoredRows:
    generator = torch.Generator().manual_seed(seed)
    lengths = [1 + k % 3 for k in range(count)]
    prompts = [list(PROMPTS[k // 2 % 2].token_ids) for k in range(count)]
    responses = [torch.randint(3, 90, (n,), generator=generator).tolist() for n in lengths]
    logprobs = [torch.randn(n, generator=generator).tolist() for n in lengths]
    rollout = from_completions(prompts, responses, logprobs, [k % 2 == 0 for k in range(count)], 0, version)
    paid = torch.randn(rollout.tokens.shape, generator=generator) * rollout.response_mask
    scores = torch.randn(count, 2, generator=generator)
    scores[0, 1] = math.nan
    return ScoredRows(replace(rollout, turn_rewards=paid), scores)


def saved(greedy: bool) -> SavedRollout:
    asked = PromptBatch([PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], [2**61 + 1, 2, 3, 4], [0, 0, 1, 1])
    metrics = {"rollout/tokens": Sum(7.0), "group/rollouts": Max(2.0), "rollout/turns": Mean(3.0, 2.0)}
    return SavedRollout(asked, rows(1, 4, 3), PARTS, 12, metrics, rows(2, 2, 3) if greedy else None)


def require_same(one: ScoredRows, other: ScoredRows) -> None:
    for name in (item.name for item in fields(Rollout)):
        mine, theirs = getattr(one.rollout, name), getattr(other.rollout, name)
        if isinstance(mine, torch.Tensor):
            assert torch.equal(mine, theirs) and mine.dtype == theirs.dtype
        else:
            assert mine == theirs
    assert torch.equal(one.scores.nan_to_num(-99), other.scores.nan_to_num(-99))


@pytest.mark.parametrize("greedy", [False, True])
def test_every_bit_comes_back(tmp_path: Path, greedy: bool) -> None:
    wanted = saved(greedy)
    path = tmp_path / "new" / "step_000001.parquet"
    write_rollout(path, wanted, ["x"] * 4)
    found = read_rollout(path, 0, PARTS)
    assert found.asked == wanted.asked
    assert (found.prompts_used, found.metrics, list(found.parts)) == (12, wanted.metrics, PARTS)
    require_same(found.sampled, wanted.sampled)
    assert (found.greedy is not None) == greedy
    if greedy:
        require_same(found.greedy, wanted.greedy)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_pandas_reads_it(tmp_path: Path) -> None:
    write_rollout(tmp_path / "r.parquet", saved(True), ["one", "two", "three", "four"])
    frame = pandas.read_parquet(tmp_path / "r.parquet")
    assert frame["response"].tolist() == ["one", "two", "three", "four", "", ""]
    assert frame["prompt"].tolist() == ["问", "问", "ask", "ask", "问", "ask"]
    assert frame["policy_version"].unique().tolist() == [3]
    assert [len(tokens) for tokens in frame["tokens"][:4]] == [3, 4, 4, 2]


def test_what_is_no_rollout_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"step_000009\.parquet: no such rollout; the run that wrote"):
        read_rollout(tmp_path / "step_000009.parquet", 0, PARTS)
    (tmp_path / "text.parquet").write_text("no parquet")
    with pytest.raises(DataError, match=r"text\.parquet: not a rollout of rollout\.save: "):
        read_rollout(tmp_path / "text.parquet", 0, PARTS)
    pandas.DataFrame({"a": [1]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match=r"other\.parquet: not a rollout of rollout\.save: its format is not"):
        read_rollout(tmp_path / "other.parquet", 0, PARTS)
    write_rollout(tmp_path / "r.parquet", saved(False), ["x"] * 4)
    with pytest.raises(DataError, match="was scored by model, rule, and this run's reward has model; use the same"):
        read_rollout(tmp_path / "r.parquet", 0, ["model"])
