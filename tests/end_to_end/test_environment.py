"""Several turns on real engines: the sampler's log-probabilities of every turn are the learner's."""

from __future__ import annotations

from pathlib import Path

import pandas
import pytest

from rlhf.errors import RunError
from rlhf.metrics import read_json_lines
from tests.end_to_end.jobs import config_of, context_of, small, transcript_of

pytestmark = pytest.mark.slow
SKIP = {"kind": "skip", "max_fraction": 0.9}
ENVIRONMENT = """
from rlhf.environments.environment import Turn

class Counting:
    def __init__(self, turns):
        self.left = turns

    async def reset(self, prompt):
        self.word = prompt.text.split()[0]

    async def step(self, response):
        self.left -= 1
        return Turn(f"{self.word} 请排序 {self.left}", float(len(response)) / 10, self.left == 0)

class Moody(Counting):
    async def reset(self, prompt):
        await super().reset(prompt)
        if int(self.word) % 3 == 0:
            raise LookupError("a number that I do not like")

class Broken(Counting):
    async def step(self, response):
        raise KeyError("nothing here")
"""


def environment(directory: Path, factory: str = "Counting") -> dict:
    path = directory / "mine.py"
    path.write_text(ENVIRONMENT)
    return {"kind": "python", "file": str(path), "factory": factory, "options": {"turns": 3}, "max_turns": 5}


@pytest.mark.parametrize("kind", [pytest.param("gae", marks=pytest.mark.exhaustive), "rloo"])
def test_turns_are_sampled_and_trained_on_as_one_token_sequence(ray_cluster, tiny_models, tmp_path, kind: str) -> None:
    from actors.ppo_job import run

    rollout = {"max_new_tokens": 24, "max_model_len": 160, "save": True}
    changes = {
        "gae": {"rollout": {**rollout, "prompts_per_step": 10, "resources": {"ranks": 2}}},  # and a critic, two ranks
        "rloo": small(
            ppo={"advantage": {"kind": "rloo"}}, reward={"model": None, "failures": SKIP},
            policy={"optimizer": {"learning_rate": 1e-4}},
            rollout={**rollout, "responses_per_prompt": 2, "prompts_per_step": 6},
        ),
    }[kind]
    made = environment(tmp_path, "Moody" if kind == "rloo" else "Counting")
    config = config_of(tiny_models, tmp_path / "ppo", environment=made, steps=2, **changes)
    published = run(config, context_of(config.output))
    rows = read_json_lines(published.path / "metrics.jsonl")
    assert max(row["sync/logprob_gap_max"] for row in rows) <= 1e-4
    assert rows[0]["rollout/turns"] > 1 and rows[0]["reward/turns"] > 0
    assert (rows[0]["reward/score"] != 0) == (kind == "gae")  # without a reward model the environment alone pays
    frame = pandas.read_parquet(published.path / "rollouts" / "step_000001.parquet")
    several = frame[[turns_in(mask) > 1 for mask in frame["response_mask"]]]
    assert len(several) >= 2 and several["response"].str.contains("请排序 2", regex=False).all()
    assert (several["turn_rewards"].map(sum) > 0).any()  # not of those that said nothing
    transcript = transcript_of(published.path, 1)
    failed = transcript["prompt"].str.extract(r"(\d+)")[0].astype(int) % 3 == 0
    if kind == "gae":
        failed &= False
    assert (transcript["failed"] == failed.map({True: "environment", False: ""})).all()
    assert (transcript["score"].isna() == failed).all() and failed.any() == (kind == "rloo")
    assert rows[0]["reward/failed_fraction"] == pytest.approx(failed.mean())


def turns_in(mask) -> int:
    """Runs of sampled tokens."""
    return sum(1 for k, here in enumerate(mask) if here and not mask[k - 1])


@pytest.mark.exhaustive
def test_an_environment_that_breaks_ends_the_run_in_a_sentence(ray_cluster, tiny_models, tmp_path) -> None:
    from actors.ppo_job import run

    changes = small(loop={"kind": "rollouts_only"}, rollout={"max_new_tokens": 24}, steps=1)
    config = config_of(tiny_models, tmp_path / "ppo", environment=environment(tmp_path, "Broken"), **changes)
    with pytest.raises(RunError, match="environment: step raised KeyError: 'nothing here'; the response was"):
        run(config, context_of(config.output))
