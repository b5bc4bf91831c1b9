"""What a command finds of the jobs before it, without any worker: what it publishes, and what it forgets."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.config import validate
from rlhf.errors import ResourceError, RunError
from rlhf.training import ray_train
from rlhf.training.config import TrainingConfig, WorkersConfig
from rlhf.training.jobs import TrainJob
from rlhf.training.ray_train import Trained, _ended_with, _forget_other_runs, check_places, someone_trains
from rlhf.training.shares import seal_share
from rlhf.training.told import WriteLosses

NUMBERS = {"step": 40, "validation_loss": 1.5}


class Killed(BaseException):
    """The process ends here."""


def ended_job(storage: Path, key: str) -> Path:
    """A job that has ended, with the one checkpoint that it keeps."""
    checkpoint = storage / f"{key}.0001" / "checkpoint_40"
    checkpoint.mkdir(parents=True)
    (checkpoint / "model.safetensors").write_bytes(b"weights")
    seal_share(checkpoint, 0, 1)
    (storage / f"{key}.ended.json").write_text(json.dumps({"checkpoint": checkpoint.name, "metrics": NUMBERS}))
    return checkpoint


def test_what_is_published_is_as_the_workers_wrote_it(tmp_path: Path) -> None:
    ended = tmp_path / "abc.ended.json"
    assert _ended_with(ended, tmp_path, "abc") is None
    checkpoint = ended_job(tmp_path, "abc")
    assert _ended_with(ended, tmp_path, "abc") == Trained(checkpoint, NUMBERS)
    (checkpoint / "model.safetensors").write_bytes(b"wEights")
    assert _ended_with(ended, tmp_path, "abc") is None, "the best of the others has to be found"
    shutil.rmtree(checkpoint)
    assert _ended_with(ended, tmp_path, "abc") is None


def job_in(work: Path) -> TrainJob:
    return TrainJob("sft", "model", "tokenizer", work, validate(TrainingConfig, {}), 60, 1)


def test_an_unfinished_job_is_not_forgotten(tmp_path: Path) -> None:
    storage = tmp_path / "ray_train"
    checkpoint = ended_job(storage, "abc")
    (storage / "abc.ended.json").unlink()
    with pytest.raises(RunError, match="holds an unfinished run that differs in config or inputs; give this run"):
        _forget_other_runs(storage, job_in(tmp_path))
    assert (checkpoint / "model.safetensors").exists()


def test_nobody_trains_before_workers_stand_somewhere_nor_after_a_loss_until_they_do_again(tmp_path: Path) -> None:
    job = job_in(tmp_path)
    job = replace(job, attempt=tmp_path / "attempt")
    job.positions.mkdir(parents=True)
    assert not someone_trains(job)
    at(job.position_of(0), 10)
    assert someone_trains(job)
    WriteLosses(job).after_exception(None, {0: RuntimeError("lost")})
    assert not someone_trains(job), "what is there is of a process that is gone"
    at(job.position_of(1), 12)
    assert someone_trains(job)


def at(path: Path, pid: int) -> None:
    path.write_text(json.dumps({"phase": "start", "step": 0, "pid": pid}))


@pytest.mark.parametrize(("workers", "nodes", "said"), [
    ({"count": 3}, [{"CPU": 2.0}], r"3 times 1 CPU = 3, the cluster has 2; lower training.workers.count or "),
    ({"count": 1, "cpus": 3}, [{"CPU": 2.0}] * 2, r"1 workers, each with 3 CPU and 0 GPU on one node, .* room for 0; "),
    ({"count": 3, "cpus": 3}, [{"CPU": 5.0}] * 2, r"3 workers, each with 3 CPU and 0 GPU on one node, .* room for 2; "),
    ({"count": 2, "gpus": 1}, [{"CPU": 1.0, "GPU": 2.0}, {"CPU": 9.0}], r"each with 1 CPU and 1 GPU .* room for 1; "),
])
def test_workers_that_no_nodes_can_hold_are_refused(workers: dict, nodes: list[dict], said: str) -> None:
    """Each lies on one node; Ray would wait for ever."""
    with pytest.raises(ResourceError, match=said):
        check_places(WorkersConfig(**workers), nodes)


def test_workers_that_fit_are_not_refused() -> None:
    nodes = [{"CPU": 5.0, "GPU": 2.0, "memory": 1.0}, {"CPU": 2.0, "GPU": 8.0}]
    check_places(WorkersConfig(count=3, cpus=2, gpus=1), nodes)


def test_whenever_the_forgetting_is_interrupted_the_rest_is_still_that_of_a_finished_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill after each of the deletions, of which the last one's are in the order that is worst."""
    for survived in range(4):
        work = tmp_path / str(survived)
        ended_job(work / "ray_train", "abc")
        ended_job(work / "ray_train", "def")
        (work / "metrics.jsonl").write_text("")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(ray_train.shutil, "rmtree", dying(shutil.rmtree, survived))
            _forget_other_runs(work / "ray_train", job_in(work))
        _forget_other_runs(work / "ray_train", job_in(work))
        assert not list(work.iterdir())


def dying(delete: Callable[..., None], survived: int) -> Callable[..., None]:
    """Delete so many trees; of the one after them, the files come first and then the process ends."""
    left = [survived]

    def deletes(path: Path, **options: object) -> None:
        if left[0]:
            left[0] -= 1
            return delete(path, **options)
        for each in sorted(path.glob("*")) if path.is_dir() else ():
            if each.is_file():
                each.unlink()
        raise Killed

    return deletes
