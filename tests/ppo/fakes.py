"""In-memory roles for the loop: each does a piece of arithmetic and writes down when it is asked and awaited."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.batch import Prompt, PromptBatch
from rlhf.config import validate
from rlhf.errors import StalePolicyError
from rlhf.metrics import Max, Mean, Metrics
from rlhf.ppo.collect import SampleAndScore
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import LoopState, Roles
from rlhf.ppo.prompts import PromptStream
from rlhf.sound import SoundDirectory

Log = list[str]
PROMPTS = PromptStream([Prompt(str(k), (k,)) for k in range(5)], per_step=2, seed=1)


@dataclass
class Pending:
    """A handle whose result is worked out when it is awaited."""

    log: Log
    name: str
    work: Callable[[], Any] = lambda: None

    def get(self) -> Any:
        self.log.append(f"await {self.name}")
        return self.work()


@dataclass
class FakeRole:
    log: Log

    def ask(self, name: str, work: Callable[[], Any] = lambda: None) -> Pending:
        self.log.append(name)
        return Pending(self.log, name, work)


@dataclass
class FakeSampler(FakeRole):
    """Draws a number that depends on the weights it holds, the prompts and the seeds."""

    holds: int = -1
    weights: float = 0.0
    drawn: float = 0.0

    @contextmanager
    def resident(self):
        self.log.append("take memory")
        yield
        self.log.append("give memory back")

    def generate(self, batch: PromptBatch, version: int) -> Pending:
        def work() -> Metrics:
            if version != self.holds:
                raise StalePolicyError(f"holds {self.holds}, asked for {version}")
            self.drawn = self.weights + sum(int(p.id) for p in batch.prompts) / 100 + sum(batch.seeds) % 97 / 97
            return {"response/length_mean": Mean(self.drawn, 1.0), "response/length_max": Max(self.drawn)}

        return self.ask(f"generate {version} {'+'.join(prompt.id for prompt in batch.prompts)}", work)


@dataclass
class FakeScorer(FakeRole):
    """Reward model and reference."""

    def score(self, rollout: Pending) -> Pending:
        return self.ask("score")

    def logprobs(self, rollout: Pending) -> Pending:
        return self.ask("reference logprobs")


@dataclass
class FakeTrained(FakeRole):
    """Policy or critic: one weight that every update moves."""

    name: str
    sampler: FakeSampler
    weight: float = 0.0
    fails_at: int | None = None

    def logprobs(self, rollout: Pending) -> Pending:
        return self.ask("policy logprobs")

    def values(self, rollout: Pending) -> Pending:
        return self.ask("values")

    def update(self, experience: Pending, step: int) -> Pending:
        def work() -> Metrics:
            if step == self.fails_at:
                raise RuntimeError(f"{self.name} lost at step {step}")
            self.weight = 0.5 * self.weight + self.sampler.drawn * (step + 1)
            return {f"{self.name}/loss": Mean(self.weight, 1.0)}

        return self.ask(f"update {self.name}", work)

    def save(self, directory: Path) -> Pending:
        def work() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "weight.json").write_text(json.dumps(self.weight))

        return self.ask(f"save {self.name}", work)

    def load(self, directory: SoundDirectory) -> Pending:
        def work() -> None:
            self.weight = json.loads((directory.path / "weight.json").read_text())

        return self.ask(f"load {self.name}", work)


@dataclass
class FakeExperience(FakeRole):
    """KL per response is what the test says of each step."""

    kl: Callable[[int], float] = lambda step: 1.0
    coefficients: list[float] = field(default_factory=list)

    def build(self, step: int, kl_coef: float, *parts: Pending) -> Pending:
        self.coefficients.append(kl_coef)
        return self.ask("build experience", lambda: {"kl/per_response": Mean(self.kl(step), 1.0)})

    def save_transcripts(self, step: int, experience: Pending) -> Pending:
        return self.ask(f"transcripts {step}")


@dataclass
class FakeSync(FakeRole):
    """Copies the policy's weight into the sampler; `loses` names versions that never arrive."""

    policy: FakeTrained
    sampler: FakeSampler
    loses: Sequence[int] = ()

    def publish(self, version: int) -> Pending:
        def work() -> None:
            if version not in self.loses:
                self.sampler.weights, self.sampler.holds = self.policy.weight, version

        return self.ask(f"publish {version}", work)


@dataclass
class FakeRecorder:
    rows: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    begun: list[int] = field(default_factory=list)
    entered: list[tuple[int, str]] = field(default_factory=list)

    def begin(self, step: int) -> None:
        self.begun.append(step)
        self.rows = [row for row in self.rows if row[0] <= step]

    def enter(self, step: int, phase: str) -> None:
        self.entered.append((step, phase))

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        kept = {name: n for name, n in numbers.items() if not name.startswith(("time/", "throughput/"))}
        self.rows.append((step, kept))


@dataclass
class FakeCheckpoints:
    saved: list[tuple[LoopState, float, float]] = field(default_factory=list)

    def restore(self, roles: Roles) -> LoopState | None:
        if not self.saved:
            return None
        state, roles.policy.weight, roles.critic.weight = self.saved[-1]
        return state

    def save(self, roles: Roles, state: LoopState, numbers: Mapping[str, float]) -> None:
        self.saved.append((state, roles.policy.weight, roles.critic.weight))

    def check(self) -> None: ...

    def finish(self) -> None: ...


def roles(log: Log | None = None, **experience: Any) -> Roles:
    """A full set of fakes that share one log."""
    log = [] if log is None else log
    sampler = FakeSampler(log)
    policy, critic = FakeTrained(log, "policy", sampler), FakeTrained(log, "critic", sampler)
    maker, sync = FakeExperience(log, **experience), FakeSync(log, policy, sampler)
    collector = SampleAndScore(sampler, FakeScorer(log), PROMPTS)
    return Roles(collector, FakeScorer(log), policy, critic, maker, sync)


def config(**changes: Any) -> PPOConfig:
    """A valid config of six steps of two prompts."""
    model = {"model": "somewhere"}
    return validate(PPOConfig, {
        "output": "out", "steps": 6, "prompts": "prompts.jsonl", "policy": model, "critic": model, "reference": model,
        "reward": model, "rollout": {"prompts_per_step": 2}, "checkpoint_every": 2, "transcripts_every": 4, **changes,
    })


def method(advantage: Mapping[str, Any], **changes: Any) -> PPOConfig:
    """A valid config of an estimator: a critic where it uses one, groups of two where it compares responses."""
    critic = {"model": "somewhere"} if advantage["kind"] == "gae" else None
    rollout = {"prompts_per_step": 2, "responses_per_prompt": 2}
    return config(ppo={"advantage": advantage}, critic=critic, rollout=rollout, **changes)
