"""Looks after a run from beside it: a role that does not answer is named, and ended so that the run can recover."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from actors.pool import Pool, UnderWay

_LOOKS_PER_DEADLINE = 10


@dataclass(frozen=True)
class Verdict:
    """What was done about a run that stood still."""

    suspects: Sequence[UnderWay]
    seconds: float

    def __str__(self) -> str:
        named = ", ".join(f"{each.actor} in {each.method}" for each in self.suspects)
        return f"{named} did not answer for {self.seconds:.0f} s (where that is merely slow, raise deadline_s)"


class Watchdog:
    """A thread, inside its block. `position` is what changes while the run goes on; when it has not for `deadline_s`,
    the actors whose calls are under way are ended: those of them that are stopped processes of this machine, where
    there are any, else all. Time is read from `clock` alone.
    """

    def __init__(
        self, deadline_s: float, position: Callable[[], Any], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.pools: Mapping[str, Pool] = {}
        self.deadline_s = deadline_s
        self.position = position
        self.clock = clock
        self.verdict: Verdict | None = None
        self._seen, self._since = position(), clock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def look_after(self, pools: Mapping[str, Pool]) -> None:
        """These are the run's actors."""
        self.pools = pools

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    @property
    def every_s(self) -> float:
        """Seconds from one look to the next."""
        return self.deadline_s / _LOOKS_PER_DEADLINE

    def look(self) -> None:
        """Act where the run has stood still for longer than the deadline; the thread looks at regular times."""
        now, position = self.clock(), self.position()
        if position != self._seen:
            self._seen, self._since = position, now
        elif now - self._since > self.deadline_s:
            self._act(now - self._since)
            self._since = self.clock()

    def _watch(self) -> None:
        while not self._over.wait(self.every_s):
            self.look()

    def _act(self, seconds: float) -> None:
        pools = list(self.pools.values())
        waiting = {each.actor: each for pool in pools for each in pool.under_way()}
        located = {each.actor: each for pool in pools for each in pool.located()}
        stopped = [each for name, each in {**located, **waiting}.items() if _is_stopped(each)]
        suspects = stopped or list(waiting.values())
        if not suspects:
            return
        self.verdict = Verdict(suspects, seconds)
        for each in suspects:
            each.end()


def _is_stopped(call: UnderWay) -> bool:
    """Whether its process is on this machine and stopped (SIGSTOP, a debugger)."""
    if call.pid is None or call.node != ray.get_runtime_context().get_node_id():
        return False
    try:
        return psutil.Process(call.pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
    except psutil.Error:
        return False
