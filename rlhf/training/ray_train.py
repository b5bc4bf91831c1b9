"""Launches a training job on Ray Train and follows it from the driver."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchTrainer

from rlhf import unfinished
from rlhf.artifacts import digest, write_json
from rlhf.at_hand import Run
from rlhf.context import RunContext
from rlhf.errors import NumericError, ResourceError, RunError
from rlhf.telemetry import RayMetrics
from rlhf.termination import requests, terminated
from rlhf.training.attempts import KeepSnapshot, attempts, begin, key_of, restarts
from rlhf.training.config import WorkersConfig
from rlhf.training.curve import Curve, following
from rlhf.training.failures import PLACES_S, diagnosis
from rlhf.training.jobs import TrainJob
from rlhf.training.meeting import Meeting
from rlhf.training.pace import Paced
from rlhf.training.retries import FailurePolicy, NotTwiceInOnePlace
from rlhf.training.shares import damage, require_as_sealed
from rlhf.training.standing import standing_pids
from rlhf.training.told import WriteLosses, telling
from rlhf.training.worker import run_worker

Checkpoints = Sequence[tuple[ray.train.Checkpoint, dict[str, float]]]
_COLLECTIVE_S = 7 * 24 * 3600  # who waits for another is no failure: training.deadline_s says how long is too long
_POLL_S = 0.2  # a report waits until the controller asks for it: Ray Train's own 2 s would slow down short steps


@dataclass(frozen=True)
class Trained:
    """The best checkpoint of a job, by validation loss, and what was measured there."""

    checkpoint: Path
    metrics: dict[str, float]


class _Trainer(TorchTrainer):
    """TorchTrainer that ends a job whose workers are lost twice in one place, and is without two helper processes that
    our jobs have no use for; each takes seconds to start.

    One deals out Ray datasets, and we give none. The other removes placement groups of a controller that died;
    ours end with the driver's Ray job, and without a dashboard it writes a warning every second.
    """

    _UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._UNUSED]

    def _initialize_and_run_controller(self, *, failure_policy: FailurePolicy, **others: Any) -> Any:
        policy = NotTwiceInOnePlace(failure_policy, self.train_loop_config)
        return super()._initialize_and_run_controller(failure_policy=policy, **others)


def train(job: TrainJob, context: RunContext) -> Trained:
    """Run a job to its end and return its best checkpoint.

    Everything that must survive a kill lies in `context.work`; the same call goes on from the newest checkpoint
    there, or returns at once when the job had ended. Raises ResourceError when the cluster is too small or a worker ran
    out of memory, RunError when a disk is full or a worker is lost again, the UserError that a worker met, and
    Terminated on SIGTERM, after a checkpoint.
    """
    require_resources(job.training.workers)
    storage, key = _storage(context)
    if not attempts(storage, key):
        _forget_other_runs(storage, job)
    ended = storage / f"{key}.ended.json"
    best = _ended_with(ended, storage, key)
    if best is None:
        workers = job.training.workers
        context.progress.note(
            f"{job.kind}: {job.total_steps} steps of {job.training.batch_size} examples on {workers.count} workers, "
            f"ZeRO-{job.training.deepspeed.zero_stage}"
        )
        job = replace(job, attempt=begin(storage, key, context.progress.note))
        context.taken()
        for told in (job.failure, job.end_requested, job.ended_at, job.lost, job.repeated):
            told.unlink(missing_ok=True)
        shutil.rmtree(job.positions, ignore_errors=True)
        job.positions.mkdir()

        def end() -> None:
            with suppress(OSError):
                job.end_requested.touch()

        def on_request() -> None:
            end()
            if not someone_trains(job):
                raise KeyboardInterrupt  # which Ray lets through where it waits

        with (
            closing(Paced(RayMetrics(Run.of(context.directory, context.stage)), job.tokens_per_step)) as watcher,
            following(job.reports, Curve(context, job.kind, job.total_steps, [watcher], restarts(job.attempt)), end),
            telling(job, context.progress.note),
            requests(context.progress.note, on_request),
        ):
            try:
                results = _fit(job)
            except KeyboardInterrupt:
                if not job.end_requested.exists():
                    raise
                results = None
        if results is None:
            raise terminated(context.stage, "no step since its newest checkpoint")
        if job.ended_at.exists():
            raise terminated(context.stage, f"step {job.ended_at.read_text()} of {job.total_steps}")
        best = _best(results)
        require_as_sealed(best.checkpoint)
        write_json(ended, {"checkpoint": best.checkpoint.name, "metrics": best.metrics})
    return best


def someone_trains(job: TrainJob) -> bool:
    """Whether a worker that was not there at the last loss has said where it stands: one that sees what is asked of
    it."""
    lost = json.loads(job.lost.read_text()) if job.lost.exists() else []
    return not standing_pids(job.positions) <= {*lost}


def _ended_with(ended: Path, storage: Path, key: str) -> Trained | None:
    """What an earlier command ended with; None: it did not end, or that is damaged by now, and the best of the others
    has to be found."""
    if not ended.exists():
        return None
    found = json.loads(ended.read_text())
    best = Trained(attempts(storage, key)[-1] / found["checkpoint"], found["metrics"])
    return best if damage(best.checkpoint) is None else None


def _storage(context: RunContext) -> tuple[Path, str]:
    """Where Ray Train keeps checkpoints, and what the job is called there.

    Another config or other inputs make it another job, which never goes on from these checkpoints.
    """
    storage = context.work.resolve() / "ray_train"
    return storage, digest({"config": context.config_hash, "inputs": dict(context.inputs)})[:16]


def _forget_other_runs(storage: Path, job: TrainJob) -> None:
    """Remove the checkpoints and curves of finished runs: a new run starts without them.

    Raises RunError when another config, or other inputs, left an unfinished run with checkpoints here.
    """
    for other in storage.glob("*/"):
        if any(other.glob("checkpoint_*")) and not (storage / f"{key_of(other)}.ended.json").exists():
            raise RunError(unfinished.refusal(job.work, ["config or inputs"]))
    for directory in (*storage.glob("*/"), storage, job.work / "tensorboard"):  # what says that they ended goes last
        shutil.rmtree(directory, ignore_errors=True)
    (job.work / "metrics.jsonl").unlink(missing_ok=True)


def require_resources(workers: WorkersConfig) -> None:
    """Raises ResourceError when the cluster, even if idle, cannot hold the workers. Ray itself would wait."""
    check_places(workers, [node["Resources"] for node in ray.nodes() if node["Alive"]])


def check_places(workers: WorkersConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """The same of nodes with such resources; each worker lies on one of them."""
    wanted = {"CPU": workers.cpus, "GPU": workers.gpus}
    for resource, each in wanted.items():
        asked, there = each * workers.count, sum(node.get(resource, 0) for node in nodes)
        if asked > there:
            raise ResourceError(
                f"training.workers asks for {workers.count} times {each} {resource} = {asked}, "
                f"the cluster has {there:g}; lower training.workers.count or training.workers.{resource.lower()}s, or "
                f"add nodes"
            )
    places = sum(
        min(int(node.get(resource, 0) // each) for resource, each in wanted.items() if each) for node in nodes
    )
    if places < workers.count:
        raise ResourceError(
            f"training.workers asks for {workers.count} workers, each with {workers.cpus} CPU and {workers.gpus} GPU "
            f"on one node, and the nodes have room for {places}; lower training.workers.cpus or training.workers.gpus, "
            f"or add nodes"
        )


def _best(checkpoints: Checkpoints) -> Trained:
    """The one with the lowest validation loss; of equals the newer, which Ray Train lists later and `staying` keeps."""
    checkpoint, numbers = min(reversed(checkpoints), key=lambda item: item[1]["validation_loss"])
    return Trained(Path(checkpoint.path), numbers)


def _fit(job: TrainJob) -> Checkpoints:
    """Run the job; the checkpoints that are kept, with what was measured there."""
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(_POLL_S)
    os.environ["RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S"] = str(job.training.deadline_s)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(PLACES_S)
    if len(ray.nodes()) == 1:  # a node that is to go takes the driver with it: nobody is left to warn
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    workers = job.training.workers
    gpus = {"GPU": workers.gpus} if workers.gpus else {}
    trainer = _Trainer(
        run_worker,
        train_loop_config=job,
        torch_config=Meeting(
            "nccl" if workers.gpus else "gloo", timeout_s=_COLLECTIVE_S, within_s=job.training.deadline_s
        ),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **gpus},
        ),
        run_config=RunConfig(
            name=job.attempt.name,
            storage_path=str(job.attempt.parent),
            callbacks=[KeepSnapshot(job.attempt), WriteLosses(job)],
            failure_config=FailureConfig(  # the other limit is of starts that come to nothing
                max_failures=job.training.max_failures, controller_failure_limit=job.training.max_failures
            ),
            checkpoint_config=CheckpointConfig(  # KeepSnapshot deletes: Ray Train keeps no newest ones beside the best
                checkpoint_score_attribute="validation_loss", checkpoint_score_order="min"
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = trainer.fit()
    except (TrainingFailedError, RayError) as error:
        told = diagnosis(error, job)
        if told is None:
            raise
        raise told from None
    if job.failure.exists():
        raise NumericError(json.loads(job.failure.read_text())["sentence"])
    return result.best_checkpoints
