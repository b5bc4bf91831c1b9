"""What Ray Train's error is to the user: a sentence, where its cause is none of ours."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.train import TrainingFailedError

from rlhf.errors import ResourceError, RunError, UserError
from rlhf.full_disk import full_store, where_full
from rlhf.memory import ran_out
from rlhf.metrics import read_json_lines
from rlhf.training.disk import no_room
from rlhf.training.jobs import TrainJob
from rlhf.training.standing import Position, furthest_behind, position_in

Causes = Mapping[str, BaseException]
"""Who failed, in words, and of what."""
_CONTROLLER = "Ray Train's controller"
_WORKER = "worker "
PLACES_S = 900.0  # how long a start waits for nodes with room, as replacement_s of PPO does
_NO_ANSWER = "WorkerHealthCheckTimeoutError"  # to Ray Train's own checks
_NO_PLACES, _NO_START = "WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError"
_PLACE = re.compile(r"^\s*(pid|ip): (\S+)", re.MULTILINE)
_EXIT = re.compile(r"Worker exit type: (\S+)")
_PEER = re.compile(  # of what the others say when one is gone: gloo, NCCL, torch
    r"connection (was )?(closed|reset|refused)|broken pipe|gloo|nccl|DistBackendError|DistNetworkError", re.IGNORECASE
)


def diagnosis(error: TrainingFailedError | RayError, job: TrainJob) -> UserError | None:
    """The error to raise in its place; None: its traceback says more than we can."""
    causes = _causes(error)
    for tell in (_told, _full_disk, _no_memory, _not_started, _lost):
        found = tell(causes, job)
        if found is not None:
            return found
    return None


def loss(failures: Mapping[int, Exception], job: TrainJob) -> str:
    """Who failed, where and of what, by the errors of workers; without a remedy, for they are started again."""
    causes = _workers(failures)
    for who, cause in causes.items():
        if isinstance(cause, UserError):
            return f"{job.kind}: {who} failed {_where(who, cause, job)}: {cause}"
    found = _missing(causes, job)
    if found is not None:
        return found[0]
    who, cause = next(iter(causes.items()))
    return f"{job.kind}: {who} failed {_where(who, cause, job)}: {type(cause).__name__}: {_first_line(cause)}"


def lost_at(failures: Mapping[int, Exception], job: TrainJob) -> tuple[str, int] | None:
    """The phase and the step in which who failed stood; None: in its start, or that is not known."""
    causes = _workers(failures)
    found = _missing(causes, job)
    who, cause = found[1:] if found is not None else next(iter(causes.items()))
    position = _position(who, cause, job)
    return None if position is None or position.phase == "start" else (position.phase, position.step)


def _causes(error: TrainingFailedError | RayError) -> Causes:
    if isinstance(error, RayError):
        return {_CONTROLLER: _innermost(error)}
    found = _workers(getattr(error, "worker_failures", {}))
    controller = getattr(error, "controller_failure", None)
    return found if controller is None else {**found, _CONTROLLER: _innermost(controller)}


def _workers(failures: Mapping[int, Exception]) -> dict[str, BaseException]:
    return {f"{_WORKER}{rank}": _innermost(cause) for rank, cause in sorted(failures.items())}


def _innermost(error: BaseException) -> BaseException:
    """What Ray has put into errors of its own."""
    inner = getattr(error, "health_check_failure", None) or (error.cause if isinstance(error, RayTaskError) else None)
    return error if inner is None else _innermost(inner)


def _told(causes: Causes, job: TrainJob) -> UserError | None:
    """A sentence that a worker has made."""
    return next((cause for cause in causes.values() if isinstance(cause, UserError)), None)


def _full_disk(causes: Causes, job: TrainJob) -> UserError | None:
    for who, cause in causes.items():
        store = full_store(cause)
        if store is not None:
            return ResourceError(f"{job.kind}: {who}: {store}")
        if where_full(cause) is not None:
            written = getattr(cause, "filename", None) or "a checkpoint or its list"
            return RunError(no_room(f"what {who} wrote ({written})", job.attempt, "more than there is"))
    return None


def _no_memory(causes: Causes, job: TrainJob) -> UserError | None:
    for who, cause in causes.items():
        if isinstance(cause, OutOfMemoryError) or ran_out(cause):
            return ResourceError(
                f"{job.kind}: {who} ran out of memory {_where(who, cause, job)} ({_first_line(cause)}); "
                f"{', or '.join(_savings(job))}, or give each worker a larger node; such a change makes it another "
                f"run: give it another output, or delete {job.work} to start over"
            )
    return None


def _savings(job: TrainJob) -> Iterator[str]:
    """What to set, with what is in force now; the cheapest first."""
    training = job.training
    if training.micro_batch_size > 1:
        yield f"lower training.micro_batch_size = {training.micro_batch_size}"
    if not training.gradient_checkpointing:
        yield "set training.gradient_checkpointing = false to true"
    if training.deepspeed.zero_stage < 3 and training.workers.count > 1:
        yield f"raise training.deepspeed.zero_stage = {training.deepspeed.zero_stage}"
    if training.precision == "float32":
        yield "set training.precision = float32 to bfloat16"
    if training.micro_batch_size == 1:
        yield "take a smaller model or shorter examples (training.micro_batch_size is 1 already)"


def _not_started(causes: Causes, job: TrainJob) -> UserError | None:
    """Workers found no places, or were lost before they trained."""
    workers, limit, cause = job.training.workers, job.training.max_failures, causes.get(_CONTROLLER)
    again = "the same command goes on from the newest checkpoint"
    times = f"{limit + 1} in this command: training.max_failures is {limit}"
    if type(cause).__name__ == _NO_PLACES:
        return ResourceError(
            f"{job.kind}: no nodes had room for {workers.count} workers with {workers.cpus} CPU and {workers.gpus} GPU "
            f"each within {PLACES_S:g} s (start {times}); add nodes, or wait until what else runs there has ended: "
            f"{again}"
        )
    if type(cause).__name__ == _NO_START:
        return RunError(
            f"{job.kind}: a worker was lost, or hung for {job.training.deadline_s:g} s, before it trained (start "
            f"{times}); look at the workers' files in logs of Ray's session directory, mend the cause, and {again}"
        )
    return None


def _lost(causes: Causes, job: TrainJob) -> UserError | None:
    found = _missing(causes, job)
    if found is None:
        return None
    sentence, who, cause = found
    return RunError(
        f"{sentence}{_count(who, job)}; look at {_log(cause)}, mend the cause, and run the same command, which "
        f"goes on from the newest checkpoint"
    )


def _missing(causes: Causes, job: TrainJob) -> tuple[str, str, BaseException] | None:
    """A process that is gone, in words, its name, and what was seen of it; before that is seen, the others may have
    said that nobody answers."""
    gone = {who: cause for who, cause in causes.items() if _is_lost(cause)}
    waiting = {who: cause for who, cause in causes.items() if _PEER.search(f"{type(cause).__name__} {cause}")}
    if not gone and not waiting:
        return None
    who, cause = next(iter((gone or waiting).items()))
    position = _position(who, cause, job)
    if position is not None and position.stood_s is not None:
        who, reason = _standing(job)
        return f"{job.kind}: {who} was lost {reason}", who, cause
    was = "was lost" if gone else "reaches another worker no more, which may be lost,"
    return f"{job.kind}: {who} {was} {_where(who, cause, job)}: {_reason(cause, job)}", who, cause


def _standing(job: TrainJob) -> tuple[str, str]:
    """Of all workers that ended because they did not go on, the one that the others waited for."""
    path = furthest_behind(job.positions)
    position = None if path is None else position_in(path)
    assert path is not None and position is not None and position.stood_s is not None
    reason = f"in {position}: it did not go on for {position.stood_s:.0f} s {_patience(job)}"
    return f"{_WORKER}{int(path.stem)}", reason


def _patience(job: TrainJob) -> str:
    return f"(where that is merely slow, raise training.deadline_s = {job.training.deadline_s:g})"


def _count(who: str, job: TrainJob) -> str:
    """How often: Ray Train starts the workers again until the limit is passed."""
    limit = job.training.max_failures
    if who == _CONTROLLER:
        return ""
    if job.repeated.exists():
        return " (the second loss in a row in that phase of that step: another start would not help)"
    return f" (loss {limit + 1} in this command: training.max_failures is {limit})"


def _is_lost(cause: BaseException) -> bool:
    """Ray's own errors are of processes and nodes; a hung worker is found by Ray Train."""
    if getattr(cause, "actor_init_failed", False):  # it has raised, and its traceback says what
        return False
    return isinstance(cause, RayError) or type(cause).__name__ == _NO_ANSWER


def _where(who: str, cause: BaseException, job: TrainJob) -> str:
    """As the worker itself has written it, or by the lines of metrics."""
    position = _position(who, cause, job)
    if position is not None:
        return f"in {position}"
    rows = read_json_lines(job.reports)
    return f"after step {rows[-1]['step']}" if rows else "before its first line of metrics"


def _position(who: str, cause: BaseException, job: TrainJob) -> Position | None:
    """None: it was lost before it could write any; what is there is of a process before it."""
    found = position_in(job.position_of(int(who.removeprefix(_WORKER)))) if who.startswith(_WORKER) else None
    pid = dict(_PLACE.findall(str(cause))).get("pid")
    return found if found is None or pid is None or int(pid) == found.pid else None


def _reason(cause: BaseException, job: TrainJob) -> str:
    if type(cause).__name__ == _NO_ANSWER:
        return f"its process did not answer for {job.training.deadline_s:g} s {_patience(job)}"
    found = _EXIT.search(str(cause))
    return f"its process ended ({found[1]})" if found else _first_line(cause)


def _first_line(cause: BaseException) -> str:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    return (lines or [type(cause).__name__])[0][:200]


def _log(cause: BaseException) -> str:
    """Where Ray keeps what that process has written, as far as the error says where it ran."""
    place = dict(_PLACE.findall(str(cause)))
    file = f"logs/worker-*-{place['pid']}.err" if "pid" in place else "the worker's file in logs/train"
    node = f" on node {place['ip']}" if "ip" in place else ""
    return f"{file} of Ray's session directory{node}"
