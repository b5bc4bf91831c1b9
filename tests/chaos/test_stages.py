"""`make chaos`: the cells of stages other than PPO, and of the driver; rows of the table of docs/recovery.md."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pandas
import pytest

from rlhf.config import validate
from rlhf.metrics import read_json_lines
from tests.chaos.disturber import Blow
from tests.chaos.driver import DriverBlow, through
from tests.chaos.runs import evaluate, evaluation_of, rows_of, run, table_of
from tests.chaos.train_worker import WorkerBlow, dealt, plan, run_struck_worker
from tests.end_to_end.jobs import config_of, context_of, small

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
LOOPS = {
    "synchronous": {},
    "asynchronous": {"loop": {"kind": "asynchronous"}, "ppo": {"correction": {"kind": "token_tis"}}},
}
CALLS = {  # what each phase of a step waits for
    "rollout": "rollout[0].generate", "score": "policy[0].logprobs", "experience": "experience[0].build",
    "update": "policy[0].update", "publish": "policy[0].weights", "checkpoint": "policy[0].save",
}


@pytest.mark.parametrize("loop", LOOPS)
def test_the_driver_may_be_lost_in_every_phase(
    ray_cluster, tiny_models, tmp_path: Path, monkeypatch, capsys, loop: str
) -> None:
    settings = small(steps=8, checkpoint_every=1, transcripts_every=100, rollout={"save": True}, **LOOPS[loop])
    whole = run(config_of(tiny_models, tmp_path / "whole", **settings), monkeypatch)
    wanted = [DriverBlow(step, phase, call) for step, (phase, call) in enumerate(CALLS.items(), 2)]
    killed = config_of(tiny_models, tmp_path / "killed", **settings)
    blows = through("ppo", killed, wanted, tmp_path / "plan", ray_cluster)
    require_dealt(blows, wanted)
    assert all(blow.redone <= 1 for blow in blows), "a checkpoint a step"
    assert rows_of(killed.output) == whole.rows
    for step in range(1, 9):
        tables = [pandas.read_parquet(tmp_path / name / "rollouts" / f"step_{step:06d}.parquet")
                  for name in ("whole", "killed")]
        pandas.testing.assert_frame_equal(*tables)
    show(capsys, f"driver ({loop})", blows)


def test_the_driver_of_an_evaluation_may_be_lost_in_every_phase(
    ray_cluster, tiny_models, tmp_path: Path, monkeypatch, capsys
) -> None:
    table, metrics, _ = evaluate(tiny_models, tmp_path, monkeypatch, "whole")
    wanted = [
        DriverBlow(0, "rollout of base", "rollout[0].generate"), DriverBlow(0, "rollout of sft", "rollout[0].generate"),
        DriverBlow(0, "score", "evaluation[0].perplexities"),
    ]
    killed = evaluation_of(tiny_models, tmp_path / "killed")
    blows = through("evaluate", killed, wanted, tmp_path / "plan", ray_cluster)
    require_dealt(blows, wanted)
    again, found = table_of(killed.output)
    pandas.testing.assert_frame_equal(again, table)
    assert found == metrics
    show(capsys, "driver of an evaluation", blows)


def require_dealt(blows: list[DriverBlow], wanted: list[DriverBlow]) -> None:
    """Each to a driver of its own, in the phase that was asked for, with its call under way."""
    assert len({blow.pid for blow in blows}) == len(wanted)
    assert [(blow.stood, blow.call) for blow in blows] == [([blow.step, blow.phase], blow.call) for blow in wanted]
    assert all(blow.call in blow.calls for blow in blows)


def show(capsys, who: str, blows: list[DriverBlow]) -> None:
    with capsys.disabled():
        print()
        for blow in blows:
            print(f"| {who} | {blow.phase} | {', '.join(blow.calls)} | {blow.lost_s:.0f} s | {blow.redone} |")


def test_whatever_an_evaluation_has_may_be_lost(ray_cluster, tiny_models, tmp_path: Path, monkeypatch, capsys) -> None:
    """The idle scorer is lost in a run of its own: that is noticed when it is to score, where a second loss of it would
    rightly end the evaluation."""
    evaluated = partial(evaluate, tiny_models, tmp_path, monkeypatch)
    table, metrics, _ = evaluated("whole")
    runs = {
        "busy": [Blow("rollout[0]", 0, "rollout of base", call="generate"),
                 Blow("rollout[0]", 0, "rollout of sft", call="generate"),
                 Blow("evaluation[0]", 0, "score", call="perplexities")],
        "idle": [Blow("evaluation[0]", 0, "rollout of sft")],
    }
    for name, blows in runs.items():
        again, found, outcome = evaluated(name, *blows)
        pandas.testing.assert_frame_equal(again, table)
        assert found == metrics and [struck.blow for struck in outcome.struck] == blows
        assert [(struck.stood, struck.call) for struck in outcome.struck] == [((0, b.phase), b.call) for b in blows]
        with capsys.disabled():
            print()
            for struck in outcome.struck:
                phase = f"evaluate: {struck.blow.phase}"
                print(f"| {struck.blow.actor} | {phase} | {struck.call or 'nothing'} | {struck.lost_s or 0:.0f} s |")


def test_a_ray_train_worker_may_be_lost_in_every_phase(
    ray_cluster, tiny_models, tmp_path: Path, monkeypatch, capsys
) -> None:
    from rlhf.stages import data, sft
    from rlhf.training import ray_train

    sizes = {"text_train": 40, "text_validation": 10, "sft_train": 700, "sft_validation": 40}
    source = {"kind": "tasks", **sizes, "prompts_train": 20, "prompts_heldout": 10}
    world = validate(data.DataConfig, {"output": str(tmp_path / "data"), "source": source})
    data.run(world, context_of(world.output))

    def trained(name: str):
        config = validate(sft.SftConfig, {
            "output": str(tmp_path / name), "model": str(tiny_models.tied), "max_length": 128,
            "train": [str(tmp_path / "data" / "sft_train.jsonl")],
            "validation": [str(tmp_path / "data" / "sft_validation.jsonl")],
            "training": {
                "micro_batch_size": 16, "batch_size": 32, "log_every": 5, "eval_every": 5, "max_steps": 20,
                "early_stop_patience": None, "max_failures": 3, "deepspeed": {"zero_stage": 2},
            },
        })
        return sft.run(config, context_of(config.output))

    whole = trained("whole")
    blows = [WorkerBlow(1, 7, "update"), WorkerBlow(0, 10, "evaluation"), WorkerBlow(1, 15, "checkpoint")]
    plan(tmp_path / "broken.work", blows)
    monkeypatch.setattr(ray_train, "run_worker", run_struck_worker)
    broken = trained("broken")
    struck = dealt(tmp_path / "broken.work")
    assert len({blow.pid for blow in struck} - {None}) == 3
    assert [blow.resumed for blow in struck] == [5, 5, 10]
    assert read_json_lines(broken.path / "metrics.jsonl") == read_json_lines(whole.path / "metrics.jsonl")
    assert broken.manifest.files["model.safetensors"] == whole.manifest.files["model.safetensors"]
    with capsys.disabled():
        print()
        for blow in struck:
            redone = blow.step - (blow.resumed or 0) - (blow.phase == "update")
            print(f"| Ray Train worker {blow.rank} | {blow.phase} | its step | {blow.lost_s:.0f} s | {redone} |")
