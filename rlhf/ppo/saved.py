"""Rollouts as files: kept beside a run, and trained on again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlhf.interfaces import Collected, Collector, Handle, RolloutStore
from rlhf.ppo.collect import NothingAhead


def rollout_file(directory: Path, step: int) -> Path:
    """Where the rollout of step `step` (from 0) lies; files count from 1, as metrics and transcripts do."""
    return directory / f"step_{step + 1:06d}.parquet"


@dataclass(frozen=True)
class Saving:
    """Writes what another collector brings."""

    collector: Collector
    store: RolloutStore
    directory: Path

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        collected = self.collector.collect(step, version, prompts_used)
        self.store.write(rollout_file(self.directory, step), step, collected).get()
        return collected

    def save(self, directory: Path) -> Handle[None]:
        return self.collector.save(directory)

    def load(self, directory: Path) -> None:
        self.collector.load(directory)


@dataclass(frozen=True)
class FromFiles(NothingAhead):
    """Brings what an earlier run has sampled for the same step. Raises DataError where it has sampled nothing."""

    store: RolloutStore
    directory: Path

    def collect(self, step: int, version: int, prompts_used: int) -> Collected:
        return self.store.read(rollout_file(self.directory, step))
