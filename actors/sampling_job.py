"""`loop.kind rollouts_only`: rollouts from the weights on disk, one file a step."""

from __future__ import annotations

from pathlib import Path

from actors.assembly import ROLLOUTS, Sampling, sampling_of
from actors.preparation import Plan
from actors.records import add_records
from actors.recovery import LookAfter, Losses, through_losses
from rlhf.context import RunContext
from rlhf.metrics import read_json_lines, values
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.recorder import RunRecorder
from rlhf.ppo.saved import rollout_file
from rlhf.termination import Interrupted, Stop, requests, terminated


def sample(config: PPOConfig, plan: Plan, context: RunContext, recorder: RunRecorder) -> None:
    """Go on after the last step whose file and row of metrics are there, and publish; actors may be lost on the way."""
    losses = Losses(context.progress.note, "starting all roles again after the last rollout", config)

    def attempt(look_after: LookAfter) -> None:
        recorder.enter(recorder.position.step, "start")
        with sampling_of(config, plan, context.work, look_after) as sampling:
            _to_the_end(config, context, sampling, recorder, stop)

    with requests(context.progress.note) as stop:
        through_losses(attempt, losses, config.roles(), lambda: recorder.position, stop)
    with context.publishing() as draft:
        add_records(context, draft)


def _to_the_end(
    config: PPOConfig, context: RunContext, sampling: Sampling, recorder: RunRecorder, stop: Stop
) -> None:
    """Raises Terminated when the run was asked to end."""
    directory = context.work.absolute() / ROLLOUTS
    done = _done(context.work / "metrics.jsonl", directory)
    prompts_used = sampling.store.read(rollout_file(directory, done - 1)).prompts_used if done else 0
    recorder.begin(done)
    sampling.weights.publish(0).get()
    for step in range(done, config.steps):
        try:
            with stop.interrupts():
                recorder.enter(step + 1, "rollout")
                collected = sampling.collector.collect(step, 0, prompts_used)
                recorder.enter(step + 1, "score")
                said = sampling.store.write(rollout_file(directory, step), step, collected).get()
        except Interrupted:
            raise terminated(context.stage, f"step {step} of {config.steps}") from None
        recorder.record(step + 1, {**values(collected.metrics), **values(said)})
        prompts_used = collected.prompts_used


def _done(metrics: Path, rollouts: Path) -> int:
    """Steps that have both their file and their row."""
    rows = len(read_json_lines(metrics)) if metrics.is_file() else 0
    done = 0
    while done < rows and rollout_file(rollouts, done).is_file():
        done += 1
    return done
