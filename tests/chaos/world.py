"""One attempt of a simulated run: its actors' calls, how long each takes on a fake clock, and who dies or hangs."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError

from actors.pool import UnderWay
from rlhf.termination import Interrupted
from tests.chaos.fake_clock import FakeClock

ATTEMPTS = 12  # of a run; after so many nobody dies any more
DEADLINE_S = 1_000.0
SLOW_S, QUICK_S = 900.0, 6.0  # one call of an attempt, and the others at most: no phase takes the deadline


@dataclass(frozen=True)
class Shape:
    """What a seed makes of a run."""

    steps: int
    staleness: int  # 0: the synchronous loop
    every: int
    keep: int
    death: float  # probability of each call
    hang: float  # the same
    repeat: int  # attempts that meet the same fate
    stop: float  # probability of a SIGTERM in each step

    @classmethod
    def of(cls, seed: int) -> Shape:
        draw = random.Random(seed)
        return cls(
            draw.randint(1, 7), draw.choice((0, 0, 1, 2, 3)), draw.randint(1, 4), draw.randint(1, 3),
            draw.choice((0.0, 0.02, 0.05, 0.1, 0.2)), draw.choice((0.0, 0.02, 0.1)), draw.choice((1, 1, 2, 3)),
            draw.choice((0.0, 0.1)),
        )


@dataclass(frozen=True)
class Fate:
    """What becomes of a call."""

    seconds: float
    dies_before: bool = False
    dies_after: bool = False


@dataclass
class World:
    """The calls of one attempt, by actor, and the time. `shape` is None where nothing happens to anybody."""

    seed: int
    attempt: int
    shape: Shape | None
    clock: FakeClock = field(default_factory=FakeClock)
    calls: dict[str, list[Call]] = field(default_factory=dict)
    killed: list[str] = field(default_factory=list)  # by the watchdog
    made: int = 0
    signal_in: int | None = None  # calls until a SIGTERM that gives the step up

    def call(self, actor: str, method: str, step: int, work: Callable[[], Any] = lambda: None) -> Call:
        """The actor is asked; it works when the answer is awaited."""
        self.made += 1
        calls, fate = self.calls.setdefault(actor, []), self._fate(f"{actor} {method} {step}")
        if any(before.hangs for before in calls):
            fate = Fate(math.inf)  # one after the other
        calls.append(call := Call(self, actor, method, work, fate))
        return call

    def _fate(self, call: str) -> Fate:
        draw = random.Random(f"{self.seed} {self.attempt} {self.made}")
        is_slow = self.made == random.Random(f"{self.seed} {self.attempt}").randrange(30)
        seconds = SLOW_S if is_slow else draw.uniform(0.0, QUICK_S)
        if self.shape is None or self.attempt >= ATTEMPTS:
            return Fate(seconds)
        draw = random.Random(f"{self.seed} {self.attempt // self.shape.repeat} {call}")
        hangs, before, after = draw.random() < self.shape.hang, draw.random(), draw.random()
        return Fate(math.inf if hangs else seconds, before < self.shape.death, after < self.shape.death)

    def signalled(self) -> None:
        """A call has been answered."""
        if self.signal_in is not None:
            self.signal_in -= 1
            if self.signal_in < 0:
                raise Interrupted

    def kill(self, actor: str) -> None:
        """Whoever waits for the actor is told."""
        self.killed.append(actor)
        for call in self.calls[actor]:
            call.wake()

    def end(self) -> None:
        """All actors are stopped."""
        for actor in self.calls:
            self.kill(actor)

    def under_way(self) -> list[UnderWay]:
        """As of `actors.pool.Pool`."""
        last = {actor: calls[-1] for actor, calls in self.calls.items()}
        return [Asked(actor, call.method, self, None, None) for actor, call in last.items() if call.is_under_way]

    def identities(self) -> dict[str, str]:
        """Ray's names of actors, which nobody needs here."""
        return {}

    def located(self) -> list[UnderWay]:
        """None is a process of this machine."""
        return []


@dataclass(eq=False)
class Call:
    """A handle: it dies before its work, after it, never answers, or does so after a while."""

    world: World
    actor: str
    method: str
    work: Callable[[], Any]
    fate: Fate
    at: float = 0.0
    woken: threading.Event | None = None

    def __post_init__(self) -> None:
        self.at = self.world.clock.now

    @property
    def hangs(self) -> bool:
        return math.isinf(self.fate.seconds)

    @property
    def is_lost(self) -> bool:
        return self.actor in self.world.killed

    @property
    def is_under_way(self) -> bool:
        return not self.is_lost and self.world.clock.now < self.at + self.fate.seconds

    def get(self) -> Any:
        self._wait()
        if self.is_lost or self.fate.dies_before:
            raise lost(self.actor)
        result = self.work()
        if self.fate.dies_after:
            raise lost(self.actor)
        self.world.signalled()
        return result

    def _wait(self) -> None:
        if self.is_under_way:
            self.woken = threading.Event()
            if not self.hangs:
                self.world.clock.set_at(self.at + self.fate.seconds, self.woken)
            self.world.clock.wait(self.woken)

    def wake(self) -> None:
        """Its actor is no more; one that would have been answered wakes by itself."""
        if self.hangs and self.woken is not None:
            self.world.clock.set_at(self.world.clock.now, self.woken)
            self.woken = None  # once


class Asked(UnderWay):
    """A call whose actor the watchdog may end."""

    def end(self) -> None:
        self.handle.kill(self.actor)


def lost(actor: str) -> ActorDiedError:
    """As Ray says it."""
    error = ActorDiedError()
    error.args = (f"The actor died unexpectedly.\n\tname: {actor}\nWorker exits by SIGKILL.",)
    error.error_msg = error.args[0]
    return error
