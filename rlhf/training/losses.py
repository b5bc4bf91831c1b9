"""Ray Train starts lost workers again by itself: the user is told which was lost, where, and of what."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from ray.train import UserCallback

from rlhf.artifacts import write_bytes
from rlhf.training.failures import loss
from rlhf.training.following import tailing
from rlhf.training.jobs import TrainJob


class WriteLosses(UserCallback):
    """In the process of Ray Train's controller: a line for each loss after which the workers are started again."""

    def __init__(self, job: TrainJob) -> None:
        self._job, self._count = job, 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        self._count += 1
        limit = self._job.training.max_failures
        if self._count > limit:  # the job ends, and its error says why
            return
        sentence = (
            f"{loss(worker_exceptions, self._job)}; the workers start again from the newest checkpoint (restart "
            f"{self._count}; training.max_failures is {limit})"
        )
        with open(self._job.losses, "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"sentence": sentence}) + "\n")


def telling(job: TrainJob, note: Callable[[str], None]) -> AbstractContextManager[None]:
    """Inside the block, which is the driver's, each loss is told as it is written."""
    write_bytes(job.losses, b"")
    return tailing(job.losses, 0, lambda row: note(row["sentence"]))
