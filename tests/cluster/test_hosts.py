"""PPO jobs on a cluster of several machines: spread over them, stopped and taken up, and through the loss of machines.

The machines are namespaces of this one (tests/cluster/machines.py); Ray, the network and the job server are real. That
a lost machine is noticed within seconds is set for these tests only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rlhf import artifacts
from rlhf.config import merge
from tests.chaos.runs import rows_of
from tests.cluster.hosts import Cluster
from tests.cluster.jobs import Blow, Moment, cut_off, spread, strike, submit
from tests.end_to_end.jobs import work_of
from tests.limits import HANG_S

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Whole:
    """A run that nothing disturbed: where each actor was, what was said, and the metrics without times."""

    nodes: dict[str, str]
    told: str
    rows: list[dict[str, float]]


@pytest.fixture(scope="module")
def whole(cluster: Cluster, code: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    output = tmp_path_factory.mktemp("whole") / "ppo"
    job = submit(cluster, code, spread(tiny_models, output))
    assert job.ends() == 0, job.told()
    assert artifacts.load(output).manifest.stage == "ppo"
    addresses = {node: address for address, node in cluster.nodes().items()}
    nodes = {actor["name"]: addresses[actor["node_id"]] for actor in cluster.listed("actors") if "[" in actor["name"]}
    return Whole(nodes, job.told(), rows_of(output))


def test_a_job_from_another_machine_spreads_its_roles(cluster: Cluster, whole: Whole) -> None:
    first, second = (worker.address for worker in cluster.workers)
    assert {whole.nodes["policy[0]"], whole.nodes["policy[1]"]} == {first, second}
    assert whole.nodes["experience[0]"] == cluster.head.address, "it writes where the driver is"
    assert {whole.nodes[name] for name in ("critic[0]", "rollout[0]", "reference[0]", "reward[0]")} <= {first, second}
    assert "ppo 5/5" in whole.told and "was lost" not in whole.told


def test_a_job_that_is_refused_returns_one(cluster: Cluster, code: Path, tiny_models: Any, tmp_path: Path) -> None:
    raw = spread(tiny_models, tmp_path / "ppo", policy={"resources": {"ranks": 3}})
    job = submit(cluster, code, raw)
    assert job.ends() == 1
    assert "rlhf: policy: STRICT_SPREAD needs 3 nodes with 0.25 CPUs each, and the cluster has 2; " in job.told()
    assert not (tmp_path / "ppo").exists()


@pytest.mark.exhaustive
def test_a_run_outlives_its_machines_and_its_job(
    cluster: Cluster, code: Path, whole: Whole, tiny_models: Any, tmp_path: Path
) -> None:
    """One run, because each start takes as long as all of its steps: a machine loses its power, another comes in its
    place, the job is stopped, submitted again, and a machine is cut off. Its numbers are those of a run in peace."""
    raw = spread(tiny_models, tmp_path / "ppo")
    lose_power_then_stop(cluster, code, raw)
    assert (work_of(tmp_path / "ppo") / "checkpoints" / "step_000003").is_dir() and not (tmp_path / "ppo").exists()
    cut_off_in_a_checkpoint(cluster, code, raw)
    assert rows_of(tmp_path / "ppo") == whole.rows


def lose_power_then_stop(cluster: Cluster, code: Path, raw: dict[str, Any]) -> None:
    """Both machines are asked for: without one of them the run waits. The step that is under way when it is stopped is
    done to its end and kept, though no checkpoint was due."""
    blow, third = Blow(2, "update", "policy[1]", "update"), Moment(3, "update")
    job = submit(cluster, code, raw, [blow, third])
    struck = strike(job, blow)
    job.says("was lost in step 2, update: ")
    job.says("waiting up to 900 s for a node to come")
    cluster.add_worker()
    third.reached(job)
    stopping = job.stop()
    job.says("SIGTERM: ends as soon as there is a checkpoint")
    third.over(job)
    assert job.ends() == 0 and job.status() == "STOPPED", job.told()  # `ray job submit` returns 0 for a stopped job
    assert stopping.wait(HANG_S) == 0
    assert "ppo: ended on SIGTERM after step 3 of 5; the same command goes on" in job.told()
    struck.look_back(job.phases())
    assert struck.resumed == 1, "the first checkpoint was to be that of step 2"


def cut_off_in_a_checkpoint(cluster: Cluster, code: Path, raw: dict[str, Any]) -> None:
    """The rank that was cut off goes on with its share of the checkpoint; the run goes on where there is room."""
    blow = Blow(4, "checkpoint", "policy[1]", "save", cut_off)
    job = submit(cluster, code, merge(raw, {"policy": {"resources": {"strategy": "SPREAD"}}}), [blow])
    struck = strike(job, blow)
    job.says("was lost in step 4, checkpoint: ")
    assert struck.machine.alive(), "it was cut off, not dead"
    assert job.ends() == 0, job.told()
    assert "ppo 3/5" not in job.told() and "waiting up to" not in job.told()
