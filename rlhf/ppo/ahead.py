"""Rollouts before their time: later steps are sampled while a step trains."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from rlhf.interfaces import Collected, Collector, Handle, RolloutStore, WeightSync, gather
from rlhf.metrics import Max, Metrics
from rlhf.ppo.at_hand import STEP


class Ahead:
    """Lets another collector work in a thread, `staleness` steps ahead of the learner.

    Step k trains on what the weights of version max(0, k − staleness) sampled, whatever takes how long: no rollout is
    under way when weights change (`AfterRollouts`), so a run is a function of its config, and resumes exactly.
    """

    def __init__(self, collector: Collector, staleness: int, steps: int, store: RolloutStore) -> None:
        self.collector = collector
        self.staleness = staleness
        self.steps = steps
        self.store = store
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="rollouts")
        self._waiting: deque[Future[Collected]] = deque()
        self._prompts_used: int | None = None
        self._step = -1  # whose rollout was taken last; the first that waits is the next one's

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        """The rollout of `step`; the next ones are under way when it returns."""
        if self._prompts_used is None:
            self._prompts_used = prompts_used
        while len(self._waiting) <= self.staleness and step + len(self._waiting) < self.steps:
            self._waiting.append(self._thread.submit(self._next, step + len(self._waiting), version))
        self._step = step
        collected = self._waiting.popleft().result()
        return replace(collected, metrics={**collected.metrics, "rollout/waiting": Max(float(len(self._waiting)))})

    def _next(self, step: int, version: int) -> Collected:
        assert self._prompts_used is not None
        STEP.set(step + 1)
        collected = self.collector.collect(step, version, self._prompts_used)
        self._prompts_used = collected.prompts_used
        return collected

    def finish(self) -> None:
        """Returns when nothing is being sampled. Raises what went wrong meanwhile."""
        for waiting in self._waiting:
            waiting.result()

    def save(self, directory: Path) -> Handle[None]:
        """Write the rollouts that wait for their step."""
        waiting = [future.result() for future in self._waiting]
        return _All([
            self.store.write(_file(directory, k), self._step + 1 + k, collected) for k, collected in enumerate(waiting)
        ])

    def load(self, directory: Path) -> None:
        """Take the rollouts that wait in a checkpoint."""
        self._waiting = deque(_done(self.store.read(path)) for path in sorted(directory.glob("waiting_*.parquet")))
        if self._waiting:
            self._prompts_used = self._waiting[-1].result().prompts_used

    def close(self) -> None:
        """Give up what is not yet being sampled."""
        self._thread.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class AfterRollouts:
    """A weight sync that waits until no engine samples."""

    sync: WeightSync
    ahead: Ahead

    def publish(self, version: int) -> Handle[None]:
        self.ahead.finish()
        return self.sync.publish(version)


@dataclass(frozen=True)
class _All:
    handles: list[Handle[Metrics]]

    def get(self) -> None:
        gather(*self.handles)


def _done(collected: Collected) -> Future[Collected]:
    future: Future[Collected] = Future()
    future.set_result(collected)
    return future


def _file(directory: Path, number: int) -> Path:
    return directory / f"waiting_{number:03d}.parquet"
