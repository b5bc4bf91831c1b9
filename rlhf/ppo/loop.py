"""The PPO loop, as the algorithm reads. It sees Protocols, never Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from rlhf.interfaces import (
    Collector,
    CriticLearner,
    ExperienceMaker,
    PolicyLearner,
    ReferenceScorer,
    WeightSync,
    gather,
)
from rlhf.metrics import Metrics, merge, values
from rlhf.objectives.kl import adapt_coefficient
from rlhf.ppo.config import AdaptiveKL, PPOConfig


@dataclass(frozen=True)
class Roles:
    """Everything that a step asks for work."""

    collector: Collector
    reference: ReferenceScorer
    policy: PolicyLearner
    critic: CriticLearner
    experience: ExperienceMaker
    weights: WeightSync


@dataclass(frozen=True)
class LoopState:
    """What the loop itself carries from step to step: `step` steps are done, β is `kl_coef`, and so many prompts
    have been asked."""

    step: int
    kl_coef: float
    prompts_used: int = 0


class Checkpoints(Protocol):
    """Keeps the whole state of a run."""

    def restore(self, roles: Roles) -> LoopState | None:
        """Load the newest complete checkpoint into the roles; None when there is none."""

    def save(self, roles: Roles, state: LoopState, numbers: Mapping[str, float]) -> None:
        """Keep this state; `numbers` are the metrics of its last step. It may take effect beside the next steps."""

    def finish(self) -> None:
        """Returns when everything saved is kept."""


class Recorder(Protocol):
    """Takes the numbers of every step."""

    def begin(self, step: int) -> None:
        """The run goes on after `step`."""

    def enter(self, step: int, phase: str) -> None:
        """A phase of a step begins; steps count from 1."""

    def record(self, step: int, numbers: Mapping[str, float]) -> None: ...


@dataclass
class Phases:
    """Wall time of each phase of a step, in seconds; `enter` is told when one begins."""

    enter: Callable[[str], None]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.enter(name)
        start = time.perf_counter()
        yield
        self.seconds[f"time/{name}"] = time.perf_counter() - start


def train(
    config: PPOConfig, roles: Roles, checkpoints: Checkpoints, recorder: Recorder,
    stop: Callable[[], bool] = lambda: False,
) -> LoopState:
    """Run PPO from the newest checkpoint to `config.steps`, or until a step has ended and `stop` answers True, which
    keeps a checkpoint; returns the state reached."""
    state = checkpoints.restore(roles) or LoopState(0, config.kl.control.coef)
    recorder.begin(state.step)
    roles.weights.publish(state.step).get()
    ends = state.step >= config.steps or stop()
    while not ends:
        phases, began = Phases(partial(recorder.enter, state.step + 1)), time.perf_counter()
        metrics, prompts_used = _step(config, roles, state, phases)
        coef = _next_kl_coef(config, state.kl_coef, values(metrics)["kl/per_response"])
        done = LoopState(state.step + 1, coef, prompts_used)
        with phases("publish"):
            roles.weights.publish(done.step).get()
        seconds = {**phases.seconds, "time/step": time.perf_counter() - began}
        numbers = _numbers(config, metrics, state, seconds)
        recorder.record(done.step, numbers)
        state, ends = done, done.step == config.steps or stop()
        if ends or state.step % config.checkpoint_every == 0:
            recorder.enter(state.step, "checkpoint")
            checkpoints.save(roles, state, numbers)
    checkpoints.finish()
    return state


def _step(config: PPOConfig, roles: Roles, state: LoopState, phases: Phases) -> tuple[Metrics, int]:
    """One rollout and the update on it; the policy's version is the number of steps done."""
    with phases("rollout"):
        collected = roles.collector.collect(state.step, state.step, state.prompts_used)
    with phases("score"):
        rollout, logprobs = collected.rollout, roles.policy.logprobs(collected.rollout)
        ref_logprobs, state_values = roles.reference.logprobs(rollout), roles.critic.values(rollout)
        gather(collected.scores, logprobs, ref_logprobs, state_values)
    with phases("experience"):
        experience = roles.experience.build(
            state.step, state.kl_coef, collected, logprobs, ref_logprobs, state_values
        )
        made = experience.get()
    with phases("update"):
        updates = gather(roles.policy.update(experience, state.step), roles.critic.update(experience, state.step))
    if _transcripts_due(config, state.step):
        roles.experience.save_transcripts(state.step + 1, experience).get()
    return merge([collected.metrics, made, *updates]), collected.prompts_used


def _transcripts_due(config: PPOConfig, step: int) -> bool:
    return step == 0 or (step + 1) % config.transcripts_every == 0 or step + 1 == config.steps


def _next_kl_coef(config: PPOConfig, coef: float, kl: float) -> float:
    control = config.kl.control
    if not isinstance(control, AdaptiveKL):
        return coef
    return adapt_coefficient(coef, kl, control.target, control.horizon, config.responses_per_step)


def _numbers(
    config: PPOConfig, metrics: Metrics, state: LoopState, seconds: Mapping[str, float]
) -> dict[str, float]:
    numbers = values(metrics)
    tokens = numbers["response/length_mean"] * config.responses_per_step
    return {
        **numbers, **seconds,
        "kl/coef": state.kl_coef,
        "policy/version": state.step,
        "throughput/tokens_per_s": tokens / seconds["time/step"],
    }
