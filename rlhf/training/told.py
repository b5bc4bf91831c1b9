"""What happens in the processes of a Ray Train job and is no error: the user is told of it by the driver."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from typing import Any

from ray.train import UserCallback

from rlhf.artifacts import write_bytes, write_json
from rlhf.training.failures import loss
from rlhf.training.following import tailing
from rlhf.training.jobs import TrainJob
from rlhf.training.standing import standing_pids


class WriteLosses(UserCallback):
    """In the process of Ray Train's controller, which starts lost workers again by itself: which, where, and of what.
    """

    def __init__(self, job: TrainJob) -> None:
        self._job, self._count = job, 0
        self._told: tuple[dict[int, str], set[int]] | None = None

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Ray Train may tell of the same loss several times, while it waits for workers that are to be pre-empted."""
        pids = standing_pids(self._job.positions)
        told = {rank: str(error) for rank, error in worker_exceptions.items()}, pids
        if told == self._told:
            return
        self._told, self._count = told, self._count + 1
        with suppress(OSError):
            write_json(self._job.lost, sorted(pids))
        tell(self._job, f"{loss(worker_exceptions, self._job)} (loss {self._count} in this command)")


def tell(job: TrainJob, sentence: str) -> None:
    """From any process of the job. Nothing depends on it, so nothing ends for it."""
    with suppress(OSError), open(job.told, "a", encoding="utf-8") as stream:
        stream.write(json.dumps({"sentence": sentence}) + "\n")


def telling(job: TrainJob, note: Callable[[str], None]) -> AbstractContextManager[None]:
    """Inside the block, which is the driver's, each sentence is told as it is written."""
    write_bytes(job.told, b"")
    return tailing(job.told, 0, lambda row: note(row["sentence"]))
