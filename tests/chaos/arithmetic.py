"""Actors that are arithmetic: each holds a number, so that two runs are compared number by number."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.batch import PromptBatch
from rlhf.interfaces import Collected
from rlhf.metrics import Max, Mean, Metrics
from rlhf.sound import SoundDirectory
from tests.chaos.world import ATTEMPTS, Call, World


@dataclass
class Signals:
    """The `Stop` of an attempt: SIGTERM after a step, or within one, while it may be given up."""

    world: World
    draw: random.Random
    probability: float

    def __call__(self) -> bool:
        return self.world.attempt < ATTEMPTS and self.draw.random() < self.probability

    @contextmanager
    def interrupts(self) -> Iterator[None]:
        self.world.signal_in = self.draw.randrange(8) if self() else None
        try:
            yield
        finally:
            self.world.signal_in = None


@dataclass
class Drawn:
    """A rollout: what was asked, by which weights, and a number that stands for the samples."""

    asked: list[str]
    seeds: list[int]
    version: int
    number: float
    handle: Call | None = None

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

        drawn.handle = self.world.call("rollout[0]", "generate", version * 1000 + sum(seeds) % 1000, work)
        return drawn

    def score(self, rollout: Drawn) -> Call:
        return self.world.call("reward[0]", "score", rollout.version)


@dataclass
class Learner:
    """Policy or critic: one number."""

    world: World
    name: str
    weight: float = 1.0

    def logprobs(self, rollout: Drawn) -> Call:
        return self.world.call(f"{self.name}[0]", "logprobs", rollout.version)

    values = logprobs

    def update(self, experience: Made, step: int) -> Call:
        def work() -> Metrics:
            self.weight = (self.weight * 7 + experience.number + step) % 1013
            return {f"{self.name}/weight": Mean(self.weight, 1.0)}

        return self.world.call(f"{self.name}[0]", "update", step, work)

    def save(self, directory: Path) -> Call:
        def work() -> None:
            directory.mkdir(parents=True)
            (directory / "weight").write_text(repr(self.weight))

        return self.world.call(f"{self.name}[0]", "save", 0, work)

    def load(self, directory: SoundDirectory) -> Call:
        def work() -> None:
            self.weight = float((directory.path / "weight").read_text())

        return self.world.call(f"{self.name}[0]", "load", 0, work)


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
        self.world.call("experience[0]", "build", self.step).get()
        mark = sum(self.rollout.seeds) * 1.0
        staleness = float(self.step - self.rollout.version)
        return {"kl/per_response": Mean(1.0, 1.0), "samples": Mean(mark, 1.0), "staleness": Max(staleness)}


@dataclass
class Maker:
    world: World

    def build(self, step: int, kl_coef: float, collected: Collected, *passes: Any) -> Made:
        return Made(self.world, step, collected.rollout)

    def save_transcripts(self, step: int, experience: Made) -> Call:
        return self.world.call("experience[0]", "transcripts", step)


@dataclass
class Sync:
    world: World
    policy: Learner
    engine: Engine

    def publish(self, version: int) -> Call:
        def work() -> None:
            self.engine.weights, self.engine.version = self.policy.weight, version

        return self.world.call("policy[0]", "weights", version, work)


@dataclass
class Shelf:
    """Rollouts as files."""

    world: World

    def write(self, path: Path, step: int, collected: Collected) -> Call:
        drawn = collected.rollout

        def work() -> Metrics:
            path.parent.mkdir(parents=True, exist_ok=True)
            content = [drawn.asked, drawn.seeds, drawn.version, drawn.number, collected.prompts_used]
            path.write_text(json.dumps(content))
            return {}

        return self.world.call("rollout[0]", "store", step, work)

    def read(self, path: Path) -> Collected:
        *drawn, used = json.loads(path.read_text())
        rollout = Drawn(*drawn)
        return Collected(rollout, self.world.call("rollout[0]", "read", rollout.version), used, rollout.get())
