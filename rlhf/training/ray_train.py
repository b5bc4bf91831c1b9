"""Launches a training job on Ray Train and follows it from the driver."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.train import CheckpointConfig, FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer

from rlhf import unfinished
from rlhf.artifacts import digest, write_json
from rlhf.context import RunContext
from rlhf.errors import NumericError, ResourceError, RunError, UserError
from rlhf.training.config import WorkersConfig
from rlhf.training.curve import Curve, following
from rlhf.training.jobs import TrainJob
from rlhf.training.worker import run_worker

_POLL_S = 0.2  # a report waits until the controller asks for it: Ray Train's own 2 s would slow down short steps


@dataclass(frozen=True)
class Trained:
    """The best checkpoint of a job, by validation loss, and what was measured there."""

    checkpoint: Path
    metrics: dict[str, float]


class _Trainer(TorchTrainer):
    """TorchTrainer without two helper processes that our jobs have no use for; each takes seconds to start.

    One deals out Ray datasets, and we give none. The other removes placement groups of a controller that died;
    ours end with the driver's Ray job, and without a dashboard it writes a warning every second.
    """

    _UNUSED = ("DatasetsCallback", "PlacementGroupCleanerCallback")

    def _create_default_callbacks(self) -> list[Any]:
        callbacks = super()._create_default_callbacks()
        return [callback for callback in callbacks if type(callback).__name__ not in self._UNUSED]


def train(job: TrainJob, context: RunContext) -> Trained:
    """Run a job to its end and return its best checkpoint.

    Everything that must survive a kill lies in `context.work`; the same call goes on from the newest checkpoint
    there, or returns at once when the job had ended. Raises ResourceError when the cluster is too small, and the
    UserError that a worker met.
    """
    require_resources(job.training.workers)
    storage, name = _storage(context)
    if not (storage / name).exists():
        _forget_other_runs(storage, job)
    ended = storage / f"{name}.ended.json"
    if not ended.exists():
        job.failure.unlink(missing_ok=True)
        workers = job.training.workers
        context.progress.note(
            f"{job.kind}: {job.total_steps} steps of {job.training.batch_size} examples on {workers.count} workers, "
            f"ZeRO-{job.training.deepspeed.zero_stage}"
        )
        with following(job.reports, Curve(context, job.kind, job.total_steps)):
            best = _fit(job, storage, name)
        write_json(ended, {"checkpoint": best.checkpoint.name, "metrics": best.metrics})
    found = json.loads(ended.read_text())
    return Trained(storage / name / found["checkpoint"], found["metrics"])


def _storage(context: RunContext) -> tuple[Path, str]:
    """Where Ray Train keeps checkpoints, and the run's name there.

    Another config or other inputs give another name, and so never go on from these checkpoints.
    """
    storage = context.work.resolve() / "ray_train"
    storage.mkdir(parents=True, exist_ok=True)
    return storage, digest({"config": context.config_hash, "inputs": dict(context.inputs)})[:16]


def _forget_other_runs(storage: Path, job: TrainJob) -> None:
    """Remove the checkpoints and curves of finished runs: a new run starts without them.

    Raises RunError when another config, or other inputs, left an unfinished run with checkpoints here.
    """
    for other in storage.glob("*/"):
        if any(other.glob("checkpoint_*")) and not (storage / f"{other.name}.ended.json").exists():
            raise RunError(unfinished.refusal(job.work, ["config or inputs"]))
    for directory in (storage, job.work / "tensorboard"):
        shutil.rmtree(directory, ignore_errors=True)
    for file in (job.work / "metrics.jsonl", job.reports):
        file.unlink(missing_ok=True)
    storage.mkdir(parents=True)


def require_resources(workers: WorkersConfig) -> None:
    """Raises ResourceError when the whole cluster has fewer CPUs or GPUs than the workers ask for."""
    total = ray.cluster_resources()
    for resource, each in (("CPU", workers.cpus), ("GPU", workers.gpus)):
        asked, there = each * workers.count, total.get(resource, 0)
        if asked > there:
            key = f"training.workers.{resource.lower()}s"
            raise ResourceError(
                f"training.workers asks for {workers.count} times {each} {resource} = {asked}, "
                f"the cluster has {there:g}; lower training.workers.count or {key}, or add nodes"
            )


def _fit(job: TrainJob, storage: Path, name: str) -> Trained:
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(_POLL_S)
    if len(ray.nodes()) == 1:  # a node that is to go takes the driver with it: nobody is left to warn
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    workers = job.training.workers
    gpus = {"GPU": workers.gpus} if workers.gpus else {}
    trainer = _Trainer(
        run_worker,
        train_loop_config=job,
        torch_config=TorchConfig(backend="nccl" if workers.gpus else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers.count,
            use_gpu=workers.gpus > 0,
            resources_per_worker={"CPU": workers.cpus, **gpus},
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=job.training.max_failures),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute="validation_loss", checkpoint_score_order="min"
            ),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result = trainer.fit()
    except TrainingFailedError as error:
        for cause in getattr(error, "worker_failures", {}).values():
            if isinstance(cause, UserError):
                raise cause from None
        raise
    if job.failure.exists():
        raise NumericError(json.loads(job.failure.read_text())["sentence"])
    checkpoint, numbers = min(result.best_checkpoints, key=lambda item: item[1]["validation_loss"])
    return Trained(Path(checkpoint.path), numbers)
