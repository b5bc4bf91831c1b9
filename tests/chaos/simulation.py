"""The real loop, collectors and checkpoints around actors that are arithmetic, and that die by a seed.

    .venv/bin/python -m tests.chaos.simulation 10000

A seed decides the shape of a run (loop, staleness, steps, checkpoints), and, call by call, who dies; the clock is the
number of calls. Whatever happens, the run must end with the numbers of the same run without deaths.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rlhf.batch import Prompt, PromptBatch
from rlhf.interfaces import Collected
from rlhf.metrics import Max, Mean, Metrics
from rlhf.ppo.ahead import AfterRollouts, Ahead
from rlhf.ppo.collect import SampleAndScore
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import Roles, train
from rlhf.ppo.prompts import PromptStream
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.ppo import fakes

ATTEMPTS = 12  # of a run; after so many nobody dies any more


class Died(Exception):
    """A process of the run is no more."""


@dataclass(frozen=True)
class Shape:
    """What a seed makes of a run."""

    steps: int
    staleness: int  # 0: the synchronous loop
    every: int
    keep: int
    death: float  # probability of each call
    stop: float  # probability of a SIGTERM in each step

    @classmethod
    def of(cls, seed: int) -> Shape:
        draw = random.Random(seed)
        return cls(
            draw.randint(1, 7), draw.choice((0, 0, 1, 2, 3)), draw.randint(1, 4), draw.randint(1, 3),
            draw.choice((0.02, 0.05, 0.1, 0.2)), draw.choice((0.0, 0.1)),
        )


@dataclass
class World:
    """One attempt of a run: its calls, counted, and who dies in which."""

    seed: int
    attempt: int
    death: float
    clock: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def call(self, who: str, step: int, work: Callable[[], Any] = lambda: None) -> Handle:
        return Handle(self, who, step, work)

    def dies(self, who: str, step: int) -> bool:
        """The same for the same call, whichever thread makes it first."""
        with self.lock:
            self.clock += 1
        if self.attempt >= ATTEMPTS:
            return False
        return random.Random(f"{self.seed} {self.attempt} {who} {step}").random() < self.death


@dataclass
class Handle:
    """A call: it dies before its work, after it, or not at all."""

    world: World
    who: str
    step: int
    work: Callable[[], Any]

    def get(self) -> Any:
        if self.world.dies(f"{self.who} before", self.step):
            raise Died(self.who)
        result = self.work()
        if self.world.dies(f"{self.who} after", self.step):
            raise Died(self.who)
        return result


@dataclass
class Drawn:
    """A rollout: what was asked, by which weights, and a number that stands for the samples."""

    asked: list[str]
    seeds: list[int]
    version: int
    number: float
    handle: Handle | None = None

    def get(self) -> Metrics:
        if self.handle is not None:
            self.handle.get()
        return {"response/length_mean": Mean(self.number, 1.0)}


@dataclass
class Engine:
    """Samples with the weights that it holds; a new one holds none."""

    world: World
    weights: float = 0.0
    version: int = -1

    def resident(self) -> Any:
        return nullcontext()

    def generate(self, batch: PromptBatch, version: int) -> Drawn:
        asked, seeds = [prompt.id for prompt in batch.prompts], list(batch.seeds)
        drawn = Drawn(asked, seeds, version, 0.0)

        def work() -> None:
            assert self.version == version, f"holds {self.version}, asked for {version}"
            drawn.number = (self.weights * 31 + sum(seeds) % 1009 + sum(map(int, asked))) % 997

        drawn.handle = self.world.call("engine", version * 1000 + sum(seeds) % 1000, work)
        return drawn

    def score(self, rollout: Drawn) -> Handle:
        return self.world.call("reward", rollout.version)


@dataclass
class Learner:
    """Policy or critic: one number."""

    world: World
    name: str
    weight: float = 1.0

    def logprobs(self, rollout: Drawn) -> Handle:
        return self.world.call(f"{self.name} logprobs", rollout.version)

    values = logprobs

    def update(self, experience: Made, step: int) -> Handle:
        def work() -> Metrics:
            self.weight = (self.weight * 7 + experience.number + step) % 1013
            return {f"{self.name}/weight": Mean(self.weight, 1.0)}

        return self.world.call(f"{self.name} update", step, work)

    def save(self, directory: Path) -> Handle:
        def work() -> None:
            directory.mkdir(parents=True)
            (directory / "weight").write_text(repr(self.weight))

        return self.world.call(f"{self.name} save", 0, work)

    def load(self, directory: Path) -> Handle:
        def work() -> None:
            self.weight = float((directory / "weight").read_text())

        return self.world.call(f"{self.name} load", 0, work)


@dataclass
class Made:
    """An experience: the rollout's number, and what was trained on."""

    world: World
    step: int
    rollout: Drawn

    @property
    def number(self) -> float:
        return self.rollout.number

    def get(self) -> Metrics:
        self.world.call("experience", self.step).get()
        mark = sum(self.rollout.seeds) * 1.0
        staleness = float(self.step - self.rollout.version)
        return {"kl/per_response": Mean(1.0, 1.0), "samples": Mean(mark, 1.0), "staleness": Max(staleness)}


@dataclass
class Maker:
    world: World

    def build(self, step: int, kl_coef: float, collected: Collected, *passes: Any) -> Made:
        return Made(self.world, step, collected.rollout)

    def save_transcripts(self, step: int, experience: Made) -> Handle:
        return self.world.call("transcripts", step)


@dataclass
class Sync:
    world: World
    policy: Learner
    engine: Engine

    def publish(self, version: int) -> Handle:
        def work() -> None:
            self.engine.weights, self.engine.version = self.policy.weight, version

        return self.world.call("publish", version, work)


@dataclass
class Shelf:
    """Rollouts as files."""

    world: World

    def write(self, path: Path, step: int, collected: Collected) -> Handle:
        drawn = collected.rollout

        def work() -> Metrics:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = [drawn.asked, drawn.seeds, drawn.version, drawn.number, collected.prompts_used]
            path.write_text(json.dumps(content))
            return {}

        return self.world.call("store", step, work)

    def read(self, path: Path) -> Collected:
        *drawn, used = json.loads(path.read_text())
        rollout = Drawn(*drawn)
        return Collected(rollout, self.world.call("stored score", rollout.version), used, rollout.get())


def simulate(seed: int, directory: Path, shape: Shape, death: float, stop: float) -> tuple[list, int]:
    """Rows that the run recorded in the end, and how many attempts it took."""
    config = config_of(shape)
    recorder = fakes.FakeRecorder()
    prompts = PromptStream([Prompt(str(k), (k,)) for k in range(11)], per_step=2, seed=seed)
    for attempt in range(ATTEMPTS + 1):
        world = World(seed, attempt, death)
        engine, policy, critic = Engine(world), Learner(world, "policy"), Learner(world, "critic")
        collector: Any = SampleAndScore(engine, engine, prompts)
        sync: Any = Sync(world, policy, engine)
        ahead = None
        if shape.staleness:
            collector = ahead = Ahead(collector, shape.staleness, shape.steps, Shelf(world))
            sync = AfterRollouts(sync, ahead)
        roles = Roles(collector, policy, policy, critic, Maker(world), sync)
        checkpoints = DirectoryCheckpoints(directory, Keeping(shape.keep, "samples"), lambda said: None)
        term = random.Random(f"stop {seed} {attempt}")
        try:
            state = train(config, roles, checkpoints, recorder, partial(_signalled, term, stop, attempt))
        except Died:
            continue
        finally:
            if ahead is not None:
                ahead.close()
                ahead._thread.shutdown(wait=True)
            checkpoints.close()
        if state.step == shape.steps:
            return recorder.rows, attempt + 1
    raise AssertionError(f"seed {seed}: not done after {ATTEMPTS + 1} attempts")


def _signalled(draw: random.Random, probability: float, attempt: int) -> bool:
    return attempt < ATTEMPTS and draw.random() < probability


def config_of(shape: Shape) -> PPOConfig:
    return fakes.config(
        steps=shape.steps, checkpoint_every=shape.every, keep_checkpoints=shape.keep, transcripts_every=3,
    )


def check(seed: int) -> int:
    """One seed: with deaths as without; returns the attempts that it took."""
    shape = Shape.of(seed)
    with tempfile.TemporaryDirectory() as root:
        wanted, once = simulate(seed, Path(root) / "whole", shape, 0.0, 0.0)
        found, attempts = simulate(seed, Path(root) / "broken", shape, shape.death, shape.stop)
        left = [path.name for path in (Path(root) / "broken").iterdir() if path.name.startswith(".")]
    assert once == 1 and not left, (seed, left)
    require_sound(seed, wanted, shape)
    assert without_time(found) == without_time(wanted), seed
    return attempts


def require_sound(seed: int, rows: list[tuple[int, Mapping[str, float]]], shape: Shape) -> None:
    """Steps monotone, each once; no sample used twice; none older than it may be."""
    assert [step for step, _ in rows] == list(range(1, shape.steps + 1)), seed
    samples = [numbers["samples"] for _, numbers in rows]
    assert len(set(samples)) == len(samples), seed
    assert all(0 <= numbers["staleness"] <= shape.staleness for _, numbers in rows), seed


def without_time(rows: list[tuple[int, Mapping[str, float]]]) -> list:
    return [(step, {key: n for key, n in numbers.items() if not key.startswith("time/")}) for step, numbers in rows]


def main() -> None:
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    threads, attempts = threading.active_count(), 0
    for seed in range(first, first + count):
        attempts += check(seed)
    assert threading.active_count() == threads, "threads were left"
    print(f"{count} seeds, {attempts} attempts, all sound")


if __name__ == "__main__":
    main()
