"""Scored rollouts as files, written and read where the experience is made: no token passes the driver."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import ray

from actors.pool import Pending, Pool, RemoteTensors
from actors.roles import RemoteRollout, given_of
from rlhf.interfaces import Collected, ScoredRollout
from rlhf.metrics import Metrics, merge


@dataclass(frozen=True)
class RemoteRolloutStore:
    """The experience maker's process, which knows the parts of the reward."""

    pool: Pool

    def write(self, path: Path, step: int, collected: Collected) -> Pending[Metrics]:
        """Write the rollout of a step with its scores; the metrics say what is in it."""
        given = given_of(collected)
        said = (path, step, collected.rollout.asked, collected.prompts_used, collected.metrics, given.counts())
        return Pending(self.pool.ask(0, "write_rollout", *said, *given.flat()), merge)

    def read(self, path: Path) -> Collected:
        """The rollout that `write` wrote. Raises DataError when the file is none."""
        said, *tensors = self.pool.ask(0, "read_rollout", path, results=5)
        asked, prompts_used, metrics, greedy = ray.get(said)
        rollout, scores, greedy_rollout, greedy_scores = ([tensor] for tensor in tensors)
        baseline = ScoredRollout(RemoteRollout(asked, greedy_rollout, []), RemoteTensors(greedy_scores, []))
        return Collected(
            RemoteRollout(asked, rollout, []), RemoteTensors(scores, []), prompts_used, metrics,
            baseline if greedy else None,
        )
