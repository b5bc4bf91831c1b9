"""What the user is told when Ray Train gives a job up: over Ray's own errors, as they come from workers."""

from __future__ import annotations

import errno
import json
import os
import pickle
from pathlib import Path

import pytest
from ray.exceptions import OutOfDiskError, OutOfMemoryError, RayActorError, RayError
from ray.train import FailureConfig, TrainingFailedError
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupFailedError,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
    WorkerHealthCheckTimeoutError,
)
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from rlhf.config import validate
from rlhf.errors import DataError, ResourceError, RunError
from rlhf.training.config import TrainingConfig
from rlhf.training.disk import room_for
from rlhf.training.failures import diagnosis, loss
from rlhf.training.jobs import TrainJob
from rlhf.training.retries import NotTwiceInOnePlace
from rlhf.training.told import WriteLosses

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
DIED = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tactor_id: 1f\n\tpid: "
    "4711\n\tip: 10.0.0.7\nThe actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR "
    "Worker exit detail: Some potential root causes: (1) killed by SIGKILL by OOM killer due to high memory usage."
)
GLOO = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.7]:4242")


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    attempt = tmp_path / "sft.work" / "ray_train" / "abc.0001"
    attempt.mkdir(parents=True)
    (attempt / "reports.jsonl").write_text(json.dumps({"step": 20, "loss": 1.5}) + "\n")
    training = validate(TrainingConfig, {"micro_batch_size": 16, "batch_size": 32})
    return TrainJob("sft", "model", "tokenizer", tmp_path / "sft.work", training, 60, 1, attempt)


def lost(reason: RayError) -> WorkerHealthCheckFailedError:
    return WorkerHealthCheckFailedError("A worker health check failed.", failure=reason)


def workers(*failures: Exception) -> TrainingFailedError:
    """As it comes out of the controller's process."""
    return pickle.loads(pickle.dumps(WorkerGroupError("…", dict(enumerate(failures)))))


def test_what_a_worker_has_said_in_a_sentence_is_the_sentence(job: TrainJob) -> None:
    found = diagnosis(workers(GLOO, DataError("line 3 is empty")), job)
    assert isinstance(found, DataError) and str(found) == "line 3 is empty"


@pytest.mark.parametrize("error", [
    workers(GLOO, FULL), workers(OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))),
    workers(RuntimeError("[enforce fail at inline_container.cc:672] . PytorchStreamWriter failed writing file data/7")),
    ControllerError(FULL),
])
def test_a_full_disk_is_said_with_what_is_free(job: TrainJob, error: TrainingFailedError) -> None:
    found = diagnosis(error, job)
    assert isinstance(found, RunError)
    said = str(found)
    assert said.startswith(f"{job.attempt}: no room for what ") and "MiB are free; free some, or move the run" in said
    assert said.endswith("then run the same command")


def test_a_full_disk_of_rays_is_another_place(job: TrainJob) -> None:
    found = diagnosis(workers(GLOO, OutOfDiskError("Local disk is full")), job)
    assert isinstance(found, ResourceError)
    assert str(found).startswith("sft: worker 1: Ray's object store is full, and so is the disk of its session")


def test_a_worker_knows_what_it_wrote_and_what_that_needs(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(bytes(2**21))
    with pytest.raises(RunError, match=r"no room for a checkpoint: it needs more than 2\.0 MiB, and [\d.,]+ MiB ar"), \
            room_for("a checkpoint", tmp_path):
        raise FULL
    with pytest.raises(RunError, match=r"/gone: no room for a checkpoint: it needs 3\.0 MiB, and [\d.,]+ MiB are fr"), \
            room_for("a checkpoint", tmp_path / "gone", 3 * 2**20):
        raise FULL
    with pytest.raises(DataError), room_for("a checkpoint", tmp_path):
        raise DataError(os.strerror(errno.ENOSPC))
    with pytest.raises(PermissionError), room_for("a checkpoint", tmp_path):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("cause", [
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), MemoryError(),
    RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes. Error code 12 (Cannot "
                 "allocate memory)"),
    lost(OutOfMemoryError("Worker was killed due to the node running low on memory.")),
])
def test_memory_that_ran_out_names_the_worker_and_the_settings_in_force(job: TrainJob, cause: Exception) -> None:
    found = diagnosis(workers(GLOO, cause), job)
    assert isinstance(found, ResourceError)
    assert str(found).startswith("sft: worker 1 ran out of memory after step 20 (")
    assert (
        "; lower training.micro_batch_size = 16, or set training.gradient_checkpointing = false to true, or raise "
        "training.deepspeed.zero_stage = 1, or set training.precision = float32 to bfloat16, or give each worker a "
        f"larger node; such a change makes it another run: give it another output, or delete {job.work} to start over"
    ) in str(found)


def test_what_is_as_low_as_it_goes_is_not_named(job: TrainJob) -> None:
    settings = {"micro_batch_size": 1, "gradient_checkpointing": True, "precision": "bfloat16",
                "deepspeed": {"zero_stage": 3}}
    lowest = TrainJob("sft", "m", "t", job.work, validate(TrainingConfig, settings), 60, 1, job.attempt)
    said = str(diagnosis(workers(MemoryError()), lowest))
    assert "MemoryError); take a smaller model or shorter examples (training.micro_batch_size is 1 already), or" in said


def test_a_worker_that_is_lost_again_is_diagnosed(job: TrainJob) -> None:
    """Ray names the OOM killer among what may have been, whatever it was: that is no word of memory."""
    found = diagnosis(workers(GLOO, lost(RayActorError("1f", DIED))), job)
    assert isinstance(found, RunError) and str(found) == (
        "sft: worker 1 was lost after step 20: its process ended (SYSTEM_ERROR) (loss 2 in this command: "
        "training.max_failures is 1); look at logs/worker-*-4711.err of Ray's session directory on node 10.0.0.7, mend "
        "the cause, and run the same command, which goes on from the newest checkpoint"
    )


def test_a_worker_that_hangs_or_is_only_missed_by_the_others_is_diagnosed(job: TrainJob) -> None:
    job.reports.unlink()
    said = str(diagnosis(workers(WorkerHealthCheckTimeoutError("A worker health check has been hanging")), job))
    assert said.startswith(
        "sft: worker 0 was lost before its first line of metrics: its process did not answer for 1800 s (where that is "
        "merely slow, raise training.deadline_s = 1800) (loss 2 in this command"
    )
    said = str(diagnosis(workers(GLOO), job))
    assert said.startswith("sft: worker 0 reaches another worker no more, which may be lost, before its")
    assert "look at the worker's file in logs/train of Ray's session directory, mend" in said


def stands(job: TrainJob, rank: int, pid: int, **stood: float | str) -> None:
    job.positions.mkdir(exist_ok=True)
    position = {"phase": "update", "step": 21, "pid": pid, **stood}
    job.position_of(rank).write_text(json.dumps(position))


def test_a_lost_worker_is_lost_where_it_stood_itself(job: TrainJob) -> None:
    stands(job, 1, 4711)
    found = loss({1: lost(RayActorError("1f", DIED))}, job)
    assert found == "sft: worker 1 was lost in the update of step 21: its process ended (SYSTEM_ERROR)"
    stands(job, 1, 4710, stood_s=99.0)
    found = loss({1: lost(RayActorError("1f", DIED))}, job)
    assert found == "sft: worker 1 was lost after step 20: its process ended (SYSTEM_ERROR)", "it wrote nothing itself"


def test_of_workers_that_wait_for_each_other_the_one_furthest_behind_is_named(job: TrainJob) -> None:
    """All of them end; which of them Ray Train sees first says nothing."""
    for rank, passes in enumerate((42, 41, 42)):
        stands(job, rank, 4711, stood_s=25.0 + rank, passes=passes)
    stands(job, 3, 4711)
    for rank in range(3):
        assert loss({rank: lost(RayActorError("1f", DIED))}, job) == (
            "sft: worker 1 was lost in the update of step 21: it did not go on for 26 s (where that is merely slow, "
            "raise training.deadline_s = 1800)"
        )


def test_what_is_no_loss_is_told_with_its_first_line(job: TrainJob) -> None:
    stands(job, 0, 4711)
    assert loss({0: DataError("line 3 is empty")}, job) == (
        "sft: worker 0 failed in the update of step 21: line 3 is empty"
    )
    assert loss({0: KeyError("x")}, job) == "sft: worker 0 failed in the update of step 21: KeyError: 'x'"


def test_each_loss_is_told_once_and_counted(job: TrainJob) -> None:
    """Ray Train may tell of one in several polls; a disk without room for the line changes nothing."""
    told = WriteLosses(job)
    first, second = {1: lost(RayActorError("1f", DIED))}, {0: KeyError("x")}
    for failures in (first, first, second, first):
        told.after_exception(None, failures)
    sentences = [json.loads(line)["sentence"] for line in job.told.read_text().splitlines()]
    assert [sentence.rpartition(" (")[2] for sentence in sentences] == [f"loss {n} in this command)" for n in (1, 2, 3)]
    job.told.unlink()
    job.told.mkdir()
    told.after_exception(None, second)


def test_a_loss_in_the_same_place_as_the_one_before_ends_the_job(job: TrainJob) -> None:
    """However many are allowed. Not one in another phase or step, nor in the start, nor one between which another came.
    """
    policy = NotTwiceInOnePlace(DefaultFailurePolicy(FailureConfig(max_failures=9)), job)

    def fails(phase: str, step: int, pid: int) -> FailureDecision:
        stands(job, 1, pid, phase=phase, step=step)
        return policy.make_decision(workers(GLOO, lost(RayActorError("1f", DIED.replace("4711", str(pid))))))

    places = [("start", 0), ("start", 0), ("update", 5), ("validation", 5), ("update", 6), ("update", 5)]
    assert [fails(*place, pid) for pid, place in enumerate(places, 10)] == [FailureDecision.RETRY] * len(places)
    assert not job.repeated.exists()
    assert fails("update", 5, 20) == FailureDecision.RAISE
    assert str(diagnosis(workers(GLOO, lost(RayActorError("1f", DIED.replace("4711", "20")))), job)) == (
        "sft: worker 1 was lost in the update of step 5: its process ended (SYSTEM_ERROR) (the second loss in a row in "
        "that phase of that step: another start would not help); look at logs/worker-*-20.err of Ray's session "
        "directory on node 10.0.0.7, mend the cause, and run the same command, which goes on from the newest checkpoint"
    )


def test_where_no_more_losses_are_allowed_that_is_what_is_told(job: TrainJob) -> None:
    policy = NotTwiceInOnePlace(DefaultFailurePolicy(FailureConfig(max_failures=1)), job)
    stands(job, 0, 4711)
    found = [policy.make_decision(workers(lost(RayActorError("1f", DIED)))) for _ in range(2)]
    assert found == [FailureDecision.RETRY, FailureDecision.RAISE] and not job.repeated.exists()


def test_ray_trains_controller_may_be_lost_too(job: TrainJob) -> None:
    said = str(diagnosis(RayActorError("1f", DIED), job))
    assert said.startswith("sft: Ray Train's controller was lost after step 20: its process ended (SYSTEM_ERROR); look")


def test_workers_that_find_no_place_or_never_train_are_counted(job: TrainJob) -> None:
    """Ray Train makes a new start of both."""
    none = diagnosis(ControllerError(WorkerGroupStartupTimeoutError(2)), job)
    assert isinstance(none, ResourceError) and str(none).startswith(
        "sft: no nodes had room for 2 workers with 1 CPU and 0 GPU each within 900 s (start 2 in this command: "
        "training.max_failures is 1); add nodes, or "
    )
    never = diagnosis(ControllerError(WorkerGroupStartupFailedError("At least one of …")), job)
    assert isinstance(never, RunError) and str(never).startswith(
        "sft: a worker was lost, or hung for 1800 s, before it trained (start 2 in this command: training.max_failures "
        "is 1); look at"
    )


@pytest.mark.parametrize("bug", [
    workers(TypeError("unsupported operand")), ControllerError(ValueError("no such state")),
    RayActorError("1f", "raised in its creation task", True), workers(KeyError("x"), KeyError("x")),
])
def test_a_fault_of_ours_keeps_its_traceback(job: TrainJob, bug: Exception) -> None:
    assert diagnosis(bug, job) is None
