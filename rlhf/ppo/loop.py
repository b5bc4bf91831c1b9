"""The PPO loop, as the algorithm reads. It sees Protocols, never Ray."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from rlhf.interfaces import (
    Collected,
    Collector,
    CriticLearner,
    ExperienceHandle,
    ExperienceMaker,
    PolicyLearner,
    ReferenceScorer,
    WeightSync,
    gather,
)
from rlhf.metrics import Metrics, merge, values
from rlhf.objectives.kl import adapt_coefficient
from rlhf.ppo.config import AdaptiveKL, PPOConfig
from rlhf.termination import Interrupted, Requests, Stop

Clock = Callable[[], float]
"""Seconds since some moment; the loop reads time nowhere else."""


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

    def check(self) -> None:
        """Raises what went wrong, so far, with what takes effect beside the steps. Waits for nothing."""

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
    """Time that each phase of a step takes, in seconds; `enter` is told when one begins."""

    enter: Callable[[str], None]
    clock: Clock
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        self.enter(name)
        start = self.clock()
        yield
        self.seconds[f"time/{name}"] = self.clock() - start


def train(
    config: PPOConfig, roles: Roles, checkpoints: Checkpoints, recorder: Recorder, stop: Stop | None = None,
    clock: Clock = time.perf_counter,
) -> LoopState:
    """Run PPO from the newest checkpoint to `config.steps`, or until `stop` asks it to end, which keeps a checkpoint of
    the step under way where its update has begun, else of the one before. Returns the state reached."""
    stop = Requests() if stop is None else stop
    state = checkpoints.restore(roles) or LoopState(0, config.kl.control.coef)
    kept, numbers = state.step, {}
    recorder.begin(state.step)
    roles.weights.publish(state.step).get()
    ends = state.step >= config.steps or stop()
    while not ends:
        checkpoints.check()
        phases, began = Phases(partial(recorder.enter, state.step + 1), clock), clock()
        try:
            with _given_up_on_request(config, stop):
                sampled = _sampled(roles, state, phases)
        except Interrupted:
            break
        metrics, prompts_used = _trained(config, roles, state, sampled, phases)
        coef = _next_kl_coef(config, state.kl_coef, values(metrics)["kl/per_response"])
        done = LoopState(state.step + 1, coef, prompts_used)
        with phases("publish"):
            roles.weights.publish(done.step).get()
        seconds = {**phases.seconds, "time/step": clock() - began}
        numbers = _numbers(config, metrics, state, seconds)
        recorder.record(done.step, numbers)
        state, ends = done, done.step == config.steps or stop()
        if state.step % config.checkpoint_every == 0:
            _keep(roles, state, numbers, checkpoints, recorder)
            kept = state.step
    if state.step > kept:
        _keep(roles, state, numbers, checkpoints, recorder)
    checkpoints.finish()
    return state


def _keep(
    roles: Roles, state: LoopState, numbers: Mapping[str, float], checkpoints: Checkpoints, recorder: Recorder
) -> None:
    recorder.enter(state.step, "checkpoint")
    checkpoints.save(roles, state, numbers)


def _given_up_on_request(config: PPOConfig, stop: Stop) -> AbstractContextManager[None]:
    """Until the update begins, a step has changed nothing, and a run that is to end need not wait for it. Not so where
    rollouts were drawn ahead, or learners have made room for the engines."""
    gives_up = config.loop.gives_up and not config.rollout.sleep
    return stop.interrupts() if gives_up else nullcontext()


@dataclass(frozen=True)
class Sampled:
    """What a step trains on, with its metrics."""

    collected: Collected
    experience: ExperienceHandle
    made: Metrics


def _sampled(roles: Roles, state: LoopState, phases: Phases) -> Sampled:
    """A rollout, scored; the policy's version is the number of steps done."""
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
        return Sampled(collected, experience, experience.get())


def _trained(
    config: PPOConfig, roles: Roles, state: LoopState, sampled: Sampled, phases: Phases
) -> tuple[Metrics, int]:
    """The update; metrics of the step, and prompts asked so far."""
    experience, collected = sampled.experience, sampled.collected
    with phases("update"):
        updates = gather(roles.policy.update(experience, state.step), roles.critic.update(experience, state.step))
    if _transcripts_due(config, state.step):
        roles.experience.save_transcripts(state.step + 1, experience).get()
    return merge([collected.metrics, sampled.made, *updates]), collected.prompts_used


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
