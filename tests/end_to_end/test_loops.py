"""Other loops on real engines: asynchronous, from files, on a fixed batch, and rollouts alone."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas
import pytest

from rlhf.metrics import read_json_lines
from rlhf.ppo.config import PPOConfig
from tests.end_to_end.jobs import config_of, context_of, small, without_time

pytestmark = pytest.mark.slow
CORRECTED = {"ppo": {"correction": {"kind": "token_tis"}}}
ASYNCHRONOUS = small(steps=4, loop={"kind": "asynchronous"}, rollout={"save": True}, **CORRECTED)


def trained(config: PPOConfig) -> list[dict[str, Any]]:
    from actors.ppo_job import run

    return read_json_lines(run(config, context_of(config.output)).path / "metrics.jsonl")


def tokens_of(directory: Path, step: int) -> list[list[int]]:
    frame = pandas.read_parquet(directory / "rollouts" / f"step_{step:06d}.parquet")
    return [list(tokens) for tokens in frame["tokens"]]


@dataclass(frozen=True)
class Trained:
    """A run that has ended, and its metrics."""

    output: Path
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def asynchronous(ray_cluster, tiny_models, tmp_path_factory) -> Trained:
    config = config_of(tiny_models, tmp_path_factory.mktemp("asynchronous") / "whole", **ASYNCHRONOUS)
    return Trained(config.output, trained(config))


def test_an_asynchronous_run_trains_on_the_last_weights_rollouts_and_resumes_exactly(
    asynchronous: Trained, tiny_models, tmp_path
) -> None:
    from actors.assembly import roles_of
    from actors.preparation import prepare
    from rlhf.ppo.loop import train
    from rlhf.ppo.recorder import RunRecorder
    from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping

    rows = asynchronous.rows
    assert [row.get("rollout/staleness") for row in rows] == [None, 1.0, 1.0, 1.0]
    assert ["sync/logprob_gap_max" in row for row in rows] == [True, False, False, False]
    assert all("mismatch/kl_k3" in row for row in rows) and rows[2]["mismatch/kl_k3"] > 0
    frame = pandas.read_parquet(asynchronous.output / "rollouts" / "step_000004.parquet")
    assert frame["policy_version"].unique().tolist() == [2]
    # Stopped after the checkpoint of step 2, whose next rollout had been drawn from the weights of step 1.
    parts = config_of(tiny_models, tmp_path / "parts", **ASYNCHRONOUS)
    context = context_of(parts.output)

    class Stopped(Exception):
        pass

    class StoppingAt(DirectoryCheckpoints):
        def save(self, roles, state, numbers) -> None:
            super().save(roles, state, numbers)
            self.finish()
            raise Stopped

    recorder = RunRecorder(context.work, parts.steps, context.progress)
    with pytest.raises(Stopped), roles_of(parts, prepare(parts), context.work) as roles:
        train(parts, roles, StoppingAt(context.work.absolute() / "checkpoints", Keeping(2)), recorder)
    recorder.close()
    assert list((context.work / "checkpoints" / "step_000002" / "rollouts").iterdir())
    assert without_time(trained(parts)) == without_time(rows)
    assert tokens_of(parts.output, 4) == tokens_of(asynchronous.output, 4)


@pytest.mark.exhaustive
def test_a_run_from_files_repeats_the_run_that_wrote_them(ray_cluster, tiny_models, tmp_path) -> None:
    first = config_of(tiny_models, tmp_path / "first", steps=2, rollout={"save": True})
    rows = trained(first)
    loop = {"kind": "replay", "rollouts": str(first.output / "rollouts")}
    again = config_of(tiny_models, tmp_path / "again", steps=2, loop=loop)
    assert set(again.roles()) == {"policy", "critic", "reference"}
    assert without_time(trained(again)) == without_time(rows)


@pytest.mark.exhaustive
def test_a_changed_learner_may_train_on_saved_rollouts(ray_cluster, tiny_models, tmp_path) -> None:
    first = config_of(tiny_models, tmp_path / "first", **small(steps=2, rollout={"save": True}))
    rows = trained(first)
    loop = {"kind": "replay", "rollouts": str(first.output / "rollouts")}
    slower = small(steps=2, loop=loop, policy={"optimizer": {"learning_rate": 0.001}})
    changed = trained(config_of(tiny_models, tmp_path / "slower", **slower))
    assert changed[0]["policy/loss"] == rows[0]["policy/loss"]
    assert changed[1]["sync/logprob_gap_max"] > first.rollout.weight_sync.max_gap > rows[1]["sync/logprob_gap_max"]


def test_rollouts_alone_are_those_of_the_first_step(asynchronous: Trained, tiny_models, tmp_path) -> None:
    alone = config_of(tiny_models, tmp_path / "alone", **small(steps=4, loop={"kind": "rollouts_only"}))
    assert set(alone.roles()) == {"rollout", "reward"}
    sampled = trained(alone)
    assert tokens_of(alone.output, 1) == tokens_of(asynchronous.output, 1)
    assert tokens_of(alone.output, 2) != tokens_of(alone.output, 1)
    assert sampled[0]["reward/score"] == asynchronous.rows[0]["reward/score"]
    assert not (alone.output / "config.json").exists()
    # And a run may train on them.
    shutil.copytree(alone.output / "rollouts", tmp_path / "kept")
    loop = {"kind": "replay", "rollouts": str(tmp_path / "kept")}
    replay = config_of(tiny_models, tmp_path / "replay", **small(steps=4, loop=loop, **CORRECTED))
    replayed, drawn = (without_time(rows)[0] for rows in (trained(replay), asynchronous.rows))
    assert replayed == {name: value for name, value in drawn.items() if name != "rollout/waiting"}


@pytest.mark.exhaustive
def test_a_fixed_batch_asks_the_same_prompts(ray_cluster, tiny_models, tmp_path) -> None:
    changes = small(steps=2, loop={"kind": "fixed_batch"}, rollout={"save": True})
    config = config_of(tiny_models, tmp_path / "fixed", **changes)
    trained(config)
    frames = [pandas.read_parquet(config.output / "rollouts" / f"step_{step:06d}.parquet") for step in (1, 2)]
    assert frames[0]["id"].tolist() == frames[1]["id"].tolist()
    assert frames[0]["seed"].tolist() != frames[1]["seed"].tolist()
