"""`make chaos`: a whole machine lost in every phase, by power or by cable; a table of what it cost.

Not part of `make test`; `make test-all` has one cell of each (tests/cluster/test_hosts.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas
import pytest

from tests.chaos.runs import rows_of
from tests.cluster.hosts import Cluster
from tests.cluster.jobs import Blow, Job, Struck, cut_off, spread, strike, submit
from tests.cluster.machines import Machine

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
CELLS = {  # of each phase, whose machine is lost, and what that actor is asked for then
    "rollout": ("rollout[0]", "generate"), "score": ("reference[0]", "logprobs"), "update": ("policy[1]", "update"),
    "publish": ("policy[1]", "weights"), "checkpoint": ("policy[1]", "save"),
}
STEPS = {"steps": len(CELLS) + 1, "checkpoint_every": 1}


@pytest.fixture(scope="module")
def whole(cluster: Cluster, code: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Metrics of a run that nothing disturbs."""
    output = tmp_path_factory.mktemp("whole") / "ppo"
    job = submit(cluster, code, spread(tiny_models, output, **STEPS))
    assert job.ends() == 0, job.told()
    return rows_of(output)


@pytest.mark.parametrize("does", [Machine.kill, cut_off], ids=["power", "cable"])
def test_a_machine_may_be_lost_in_every_phase(
    cluster: Cluster, code: Path, whole: list[dict], tiny_models: Any, tmp_path: Path, capsys: Any,
    does: Callable[[Machine], None],
) -> None:
    """Each is replaced; the two ranks of the policy must lie on two machines."""
    blows = [Blow(step, phase, *cell, does) for step, (phase, cell) in enumerate(CELLS.items(), 2)]
    job = submit(cluster, code, spread(tiny_models, tmp_path / "ppo", **STEPS), blows)
    struck = [replaced(cluster, strike(job, blow)) for blow in blows]
    assert job.ends() == 0, job.told()
    for each in struck:
        each.look_back(job.phases())
    assert rows_of(tmp_path / "ppo") == whole
    with capsys.disabled():
        print()
        for each in struck:
            print(row(each, job))
    assert all(each.redone <= 1 for each in struck)
    assert all(is_named(each, job) for each in struck)


def test_an_evaluation_survives_the_loss_of_a_machine(
    cluster: Cluster, code: Path, tiny_models: Any, tmp_path: Path, capsys: Any
) -> None:
    def evaluate(name: str, *blows: Blow) -> Job:
        job = submit(cluster, code, settings_of_evaluation(tiny_models, tmp_path / name), blows, "evaluate")
        for blow in blows:
            struck.append(replaced(cluster, strike(job, blow)))
        assert job.ends() == 0, job.told()
        return job

    struck: list[Struck] = []
    evaluate("whole")
    job = evaluate("broken", Blow(0, "rollout of sft", "rollout[0]", "generate"))
    struck[0].look_back(job.phases())
    with capsys.disabled():
        print("\n" + row(struck[0], job))
    assert "was lost in rollout of sft: " in job.told()
    tables = [pandas.read_parquet(tmp_path / name / "transcripts.parquet") for name in ("whole", "broken")]
    pandas.testing.assert_frame_equal(*tables)


def settings_of_evaluation(models: Any, output: Path) -> dict[str, Any]:
    return {
        "output": str(output), "models": {"base": str(models.tied), "sft": str(models.untied)},
        "reward": str(models.reward), "prompts": str(models.prompts), "max_prompts": 6,
        "sampler": {"max_new_tokens": 8, "max_model_len": 128, "max_sequences": 8, "resources": {"cpus": 0.5}},
    }


def replaced(cluster: Cluster, struck: Struck) -> Struck:
    """Another machine comes; one that is cut off stays as it is."""
    cluster.add_worker()
    return struck


def is_named(struck: Struck, job: Job) -> bool:
    step = f"step {struck.blow.step}, " if struck.blow.step else ""
    return f"was lost in {step}{struck.blow.phase}: " in job.told()


def row(struck: Struck, job: Job) -> str:
    """A line of the table."""
    doing = ", ".join(f"{actor} {call}" for actor, call in sorted(struck.calls.items())) or "nothing"
    how = "power" if struck.blow.does is Machine.kill else "cable"
    return (
        f"| machine of {struck.blow.actor} ({how}) | {struck.blow.phase} | {doing} | "
        f"{'named' if is_named(struck, job) else 'not named'} | {struck.lost_s:.0f} s | {struck.redone} |"
    )
