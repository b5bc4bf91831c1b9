"""The real loop, collectors, checkpoints and watchdog around actors that are arithmetic, and die or hang by a seed.

    .venv/bin/python -m tests.chaos.simulation 10000

A seed decides the shape of a run (loop, staleness, steps, checkpoints), and, call by call, how long it takes on a fake
clock, who dies, and who never answers. Whatever happens, the run must end with the numbers of the same run without it.
"""

from __future__ import annotations

import random
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import astuple, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ray.exceptions import RayError

from actors.recovery import Losses
from actors.watchdog import Watchdog
from rlhf.batch import Prompt
from rlhf.errors import RunError
from rlhf.interfaces import Position
from rlhf.ppo.ahead import AfterRollouts, Ahead
from rlhf.ppo.collect import SampleAndScore
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import LoopState, Roles, train
from rlhf.ppo.prompts import PromptStream
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.chaos.arithmetic import Engine, Learner, Maker, Shelf, Signals, Sync
from tests.chaos.fake_clock import Beside, FakeClock
from tests.chaos.world import ATTEMPTS, DEADLINE_S, Shape, World
from tests.ppo import fakes

LOOKS = 2  # of the watchdog: one until it sees that a phase began, one until it sees that the deadline is over


class Timed(fakes.FakeRecorder):
    """Knows where the run stands, since when, and that its times are those of the fake clock."""

    clock = FakeClock()
    position = Position(0, "start")
    since = 0.0

    def enter(self, step: int, phase: str) -> None:
        super().enter(step, phase)
        if phase == "rollout":
            self._began, self._took = self.clock.now, {}
        elif step:
            self._took[f"time/{self.position.phase}"] = self.clock.now - self.since
        self.position, self.since = Position(step, phase, self.position.count + 1), self.clock.now

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        assert numbers["time/step"] == self.clock.now - self._began
        assert all(numbers[f"time/{phase}"] == self._took[f"time/{phase}"] for phase in ("rollout", "score"))
        super().record(step, numbers)


@dataclass
class Tally:
    """What a run went through."""

    attempts: int = 0
    hangs: int = 0
    diagnoses: int = 0
    seconds: float = 0.0  # of the fake clock

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(mine + its for mine, its in zip(astuple(self), astuple(other), strict=True)))


@dataclass
class Run:
    """A run in a directory; the same command goes on with it until it is done."""

    seed: int
    shape: Shape
    directory: Path
    is_disturbed: bool
    recorder: Timed = field(default_factory=Timed)
    tally: Tally = field(default_factory=Tally)

    def to_the_end(self) -> list[tuple[int, dict[str, float]]]:
        """Its rows."""
        while (state := self._command()) is None or state.step < self.shape.steps:
            assert self.tally.attempts <= ATTEMPTS, f"seed {self.seed}: not done after {self.tally.attempts} attempts"
        return self.recorder.rows

    def _command(self) -> LoopState | None:
        """As of `through_losses`. None: it ended with a diagnosis, as it must where a loss comes again, and only then.
        """
        losses, known = Losses(lambda said: None, "going on", config_of(self.shape)), list[tuple[Position, str]]()
        while True:
            world = World(self.seed, self.tally.attempts, self.shape if self.is_disturbed else None)
            watchdog = Watchdog(DEADLINE_S, lambda: self.recorder.position, world.clock)
            self.tally.attempts += 1
            try:
                return self._attempt(world, watchdog)
            except RayError as error:
                known.append((self.recorder.position, who(error, watchdog)))
                try:
                    losses.survive(error, self.recorder.position, watchdog.verdict)
                except RunError:
                    assert is_hopeless(known), (self.seed, known)
                    self.tally.diagnoses += 1
                    return None
                assert not is_hopeless(known), (self.seed, known)

    def _attempt(self, world: World, watchdog: Watchdog) -> LoopState:
        self.recorder.clock = world.clock
        self.recorder.enter(0, "start")
        watchdog.look_after({"all": world})  # type: ignore[dict-item]
        world.clock.every(watchdog.every_s, partial(self._look, world, watchdog))
        checkpoints = DirectoryCheckpoints(self.directory, Keeping(self.shape.keep, "samples"), lambda said: None)
        roles, close = self._roles(world)
        signals = Signals(world, random.Random(f"stop {self.seed} {world.attempt}"), self._stop)
        try:
            return train(config_of(self.shape), roles, checkpoints, self.recorder, signals, world.clock)
        finally:
            world.end()
            close()
            checkpoints.close()
            world.clock.join()
            self.tally.seconds += world.clock.now

    @property
    def _stop(self) -> float:
        return self.shape.stop if self.is_disturbed else 0.0

    def _roles(self, world: World) -> tuple[Roles, Callable[[], None]]:
        engine, policy, critic = Engine(world), Learner(world, "policy"), Learner(world, "critic")
        prompts = PromptStream([Prompt(str(k), (k,)) for k in range(11)], per_step=2, seed=self.seed)
        collector: Any = SampleAndScore(engine, engine, prompts)
        sync: Any = Sync(world, policy, engine)
        roles = Roles(collector, Learner(world, "reference"), policy, critic, Maker(world), sync)
        if not self.shape.staleness:
            return roles, lambda: None
        ahead = Ahead(collector, self.shape.staleness, self.shape.steps, Shelf(world))
        ahead._thread = beside = Beside(world.clock)  # type: ignore[assignment]

        def close() -> None:
            ahead.close()
            beside.shutdown()

        return replace(roles, collector=ahead, weights=AfterRollouts(sync, ahead)), close

    def _look(self, world: World, watchdog: Watchdog) -> None:
        """What the watchdog's thread does; its verdict comes at the deadline, and only where an actor hangs."""
        still_s, before = world.clock.now - self.recorder.since, watchdog.verdict
        hanging = {actor for actor, calls in world.calls.items() if calls[-1].hangs and calls[-1].is_under_way}
        watchdog.look()
        if watchdog.verdict is before:
            assert not hanging or still_s <= DEADLINE_S + LOOKS * watchdog.every_s, (self.seed, still_s)
            return
        self.tally.hangs += 1
        assert before is None and still_s > DEADLINE_S, (self.seed, still_s)
        assert hanging and hanging <= set(world.killed), (self.seed, hanging, world.killed)


def who(error: RayError, watchdog: Watchdog) -> str:
    """Who was lost."""
    if watchdog.verdict is not None:
        return " and ".join(sorted(suspect.actor for suspect in watchdog.verdict.suspects))
    return str(error).partition("name: ")[2].partition("\n")[0]


def is_hopeless(known: list[tuple[Position, str]]) -> bool:
    """The last loss is the same as the one before it at its step, or the third there."""
    step = known[-1][0].step or known[-1][0].phase
    here = [(at.phase, lost) for at, lost in known if (at.step or at.phase) == step]
    return len(here) >= 3 or (len(here) == 2 and here[0] == here[1])


def config_of(shape: Shape) -> PPOConfig:
    loop: dict[str, Any] = {}
    if shape.staleness:
        ahead = {"kind": "asynchronous", "staleness": shape.staleness}
        loop = {"loop": ahead, "ppo": {"correction": {"kind": "token_tis"}}}
    return fakes.config(
        steps=shape.steps, checkpoint_every=shape.every, keep_checkpoints=shape.keep, transcripts_every=3, **loop
    )


def check(seed: int) -> Tally:
    """One seed: disturbed as undisturbed; returns what it went through."""
    shape = Shape.of(seed)
    with tempfile.TemporaryDirectory() as root:
        whole, broken = (Run(seed, shape, Path(root) / name, name == "broken") for name in ("whole", "broken"))
        wanted, found = whole.to_the_end(), broken.to_the_end()
        left = [path.name for path in broken.directory.iterdir() if path.name.startswith(".")]
    once = Tally(attempts=1, seconds=whole.tally.seconds)
    assert whole.tally == once and not left, (seed, whole.tally, left)
    require_sound(seed, wanted, shape)
    assert found == wanted, seed
    return broken.tally


def require_sound(seed: int, rows: list[tuple[int, dict[str, float]]], shape: Shape) -> None:
    """Steps monotone, each once; no sample used twice; none older than it may be."""
    assert [step for step, _ in rows] == list(range(1, shape.steps + 1)), seed
    samples = [numbers["samples"] for _, numbers in rows]
    assert len(set(samples)) == len(samples), seed
    assert all(0 <= numbers["staleness"] <= shape.staleness for _, numbers in rows), seed


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    threads, tally = threading.active_count(), Tally()
    for seed in range(first, first + count):
        tally += check(seed)
    assert threading.active_count() == threads, "threads were left"
    told = f"{tally.attempts} attempts, {tally.hangs} hangs found, {tally.diagnoses} diagnoses"
    print(f"{count} seeds, {told}, all sound")


if __name__ == "__main__":
    main()
