"""When Ray Train starts lost workers again."""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

from ray.train import TrainingFailedError, WorkerGroupError
from ray.train.v2._internal.execution.failure_handling import FailureDecision

from rlhf.training.failures import lost_at
from rlhf.training.jobs import TrainJob


class FailurePolicy(Protocol):
    """Ray Train's: asked once for each failure, in the process of its controller."""

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision: ...


class NotTwiceInOnePlace:
    """Another policy's decisions, but that workers are given up that were lost in the same phase of the same step as
    the time before, however often the other one would start them again."""

    def __init__(self, policy: FailurePolicy, job: TrainJob) -> None:
        self._policy, self._job = policy, job
        self._at: tuple[str, int] | None = None

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        decision = self._policy.make_decision(training_failed_error)
        failures = training_failed_error.worker_failures if isinstance(training_failed_error, WorkerGroupError) else {}
        before, self._at = self._at, lost_at(failures, self._job) if failures else None
        if decision != FailureDecision.RETRY or self._at is None or self._at != before:
            return decision
        with suppress(OSError):
            self._job.repeated.touch()
        return FailureDecision.RAISE
