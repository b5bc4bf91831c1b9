"""How fast a job trains, by when its rows come."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from rlhf.metrics import Watcher

TOKENS_PER_S = "throughput/tokens_per_s"
_SHORTEST_S = 1.0  # rows are looked for every 0.2 s


class Paced:
    """Another watcher that is also told how many tokens per second the job trains on.

    `tokens_per_step` is the mean over all examples. Validations and checkpoints between two rows count as time. It is
    in no file, for the numbers there are those of any other run of the same config.
    """

    def __init__(self, told: Watcher, tokens_per_step: float, now: Callable[[], float] = time.monotonic) -> None:
        self._told = told
        self._tokens = tokens_per_step
        self._now = now
        self._since: tuple[int, float] | None = None

    def begin(self, step: int, total: int, restarts: int) -> None:
        self._told.begin(step, total, restarts)

    def enter(self, phase: str) -> None:
        self._told.enter(phase)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        pace = self._pace(step)
        self._told.write(step, numbers if pace is None else {**numbers, TOKENS_PER_S: pace})

    def close(self) -> None:
        self._told.close()

    def _pace(self, step: int) -> float | None:
        """Since the last row of which it could be told; None for the first one, and where the workers went back."""
        now = self._now()
        if self._since is None or step <= self._since[0]:
            self._since = (step, now)
            return None
        before, then = self._since
        if now - then < _SHORTEST_S:
            return None
        self._since = (step, now)
        return (step - before) * self._tokens / (now - then)
