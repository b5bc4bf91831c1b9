"""What is kept of samples that ended a run."""

from __future__ import annotations

import json
from pathlib import Path

from rlhf.rewards.sample import Failure, RewardSample, checked
from rlhf.rewards.unscored import save_samples

TURNS = [{"role": "user", "content": "2+2?"}]
SAMPLES = [RewardSample(str(k), "2+2?", TURNS, text) for k, text in enumerate("4五\ud800")]


def test_every_sample_is_kept_with_its_score_or_why_it_has_none(tmp_path: Path) -> None:
    path = tmp_path / "failures" / "reward.mine.jsonl"
    answers = [1.5, checked(float("nan")), Failure("raised KeyError: 'x'")]
    assert save_samples(path, SAMPLES, answers) == f"were saved as {path}"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["response"] for row in rows] == [sample.response for sample in SAMPLES]
    assert [row.get("score") for row in rows] == [1.5, None, None]
    assert [row.get("failed") for row in rows] == [None, "answered nan, which is not finite", "raised KeyError: 'x'"]


def test_a_place_that_cannot_be_written_hides_nothing(tmp_path: Path) -> None:
    (tmp_path / "failures").write_text("")
    path = tmp_path / "failures" / "reward.mine.jsonl"
    assert save_samples(path, SAMPLES, [1.0] * 3).startswith(f"could not be saved as {path} (")
