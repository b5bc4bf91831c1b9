"""The PPO stage: starts the roles, runs the loop, publishes the policy."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing

from ray.exceptions import RayError

from actors.assembly import ROLLOUTS, roles_of, sampling_of
from actors.claim import CHECKPOINTS, claim, release
from actors.learners import EMA
from actors.placement import require_room
from actors.preparation import Plan, prepare
from actors.recovery import Losses
from actors.watchdog import Watchdog
from rlhf.artifacts import Artifact, Draft, load
from rlhf.context import RunContext
from rlhf.errors import Terminated
from rlhf.metrics import read_json_lines, values
from rlhf.models.loading import load_tokenizer
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import Roles, train
from rlhf.ppo.loop_config import RolloutsOnly
from rlhf.ppo.recorder import RunRecorder
from rlhf.ppo.saved import rollout_file
from rlhf.termination import requests
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.ptx import write_ptx


def run(config: PPOConfig, context: RunContext) -> Artifact:
    """Train, or go on with, the run of `context`; publishes policy and tokenizer as a transformers directory.

    With `loop.kind rollouts_only` it samples instead, and publishes the rollouts.
    """
    plan = prepare(config)
    require_room(config.roles())
    claim(context, config)
    recorder = RunRecorder(context.work, config.steps, context.progress)
    try:
        (_sample if isinstance(config.loop, RolloutsOnly) else _train)(config, plan, context, recorder)
    finally:
        recorder.close()
    release(context.work)
    return load(context.directory)


def _train(config: PPOConfig, plan: Plan, context: RunContext, recorder: RunRecorder) -> None:
    """Train to the end, through the loss of any actor."""
    if config.ptx is not None:
        write_ptx(config.ptx, load_tokenizer(config.policy.model), context.work)
    losses = Losses(context.progress.note)
    with requests(context.progress.note) as stop:
        while True:
            watchdog = Watchdog(config.deadline_s, lambda: recorder.position)
            recorder.enter(recorder.position.step, "start")
            try:
                with watchdog, roles_of(config, plan, context.work, watchdog.look_after) as roles:
                    return _to_the_end(config, context, roles, recorder, stop)
            except RayError as error:
                losses.survive(error, recorder.position, watchdog.verdict)
                if stop():
                    raise _terminated(context, config, "its newest checkpoint") from None


def _to_the_end(
    config: PPOConfig, context: RunContext, roles: Roles, recorder: RunRecorder, stop: Callable[[], bool]
) -> None:
    """From the newest checkpoint to the published policy. Raises Terminated when the run was asked to end."""
    with closing(checkpoints_of(config, context)) as checkpoints:
        state = train(config, roles, checkpoints, recorder, stop)
    if state.step < config.steps:
        raise _terminated(context, config, f"step {state.step}")
    recorder.enter(state.step, "publish the policy")
    _publish_policy(config, context, roles)


def _terminated(context: RunContext, config: PPOConfig, reached: str) -> Terminated:
    return Terminated(f"{context.stage}: ended on SIGTERM after {reached} of {config.steps}; the same command goes on")


def checkpoints_of(config: PPOConfig, context: RunContext) -> DirectoryCheckpoints:
    """Where a run keeps its state."""
    keeping = Keeping(config.keep_checkpoints, config.best_checkpoint)
    return DirectoryCheckpoints(context.work.absolute() / CHECKPOINTS, keeping, context.progress.note)


def _sample(config: PPOConfig, plan: Plan, context: RunContext, recorder: RunRecorder) -> None:
    """Rollouts from the weights on disk, one file a step; a run that was stopped begins anew."""
    recorder.begin(0)
    shutil.rmtree(context.work / ROLLOUTS, ignore_errors=True)
    with sampling_of(config, plan, context.work) as sampling:
        sampling.weights.publish(0).get()
        prompts_used = 0
        for step in range(config.steps):
            collected = sampling.collector.collect(step, 0, prompts_used)
            path = rollout_file(context.work.absolute() / ROLLOUTS, step)
            said = sampling.store.write(path, step, collected).get()
            recorder.record(step + 1, {**values(collected.metrics), **values(said)})
            prompts_used = collected.prompts_used
    with context.publishing() as draft:
        _add_records(context, draft)


def _publish_policy(config: PPOConfig, context: RunContext, roles: Roles) -> None:
    with context.publishing() as draft:
        roles.policy.export(draft.path.absolute()).get()
        tokenizer = load_tokenizer(config.policy.model)
        for directory in (draft.path, *draft.path.glob(EMA)):
            tokenizer.save_pretrained(directory)
        _add_records(context, draft)


def _add_records(context: RunContext, draft: Draft) -> None:
    """What the run wrote on the way."""
    shutil.copy(context.work / "metrics.jsonl", draft.path)
    for name in ("transcripts", ROLLOUTS):
        if (context.work / name).is_dir():
            shutil.copytree(context.work / name, draft.path / name)
    draft.metrics.update(_summary(read_json_lines(context.work / "metrics.jsonl")))


def _summary(rows: list[dict]) -> dict[str, float]:
    last = rows[-1]
    gaps = [row["sync/logprob_gap_max"] for row in rows if "sync/logprob_gap_max" in row]
    kept = ("reward/score", "reward/turns", "reward/gold", "kl/per_response", "policy/entropy", "response/length_mean")
    return {
        "steps": len(rows),
        **({"logprob_gap_max": max(gaps)} if gaps else {}),
        "seconds": sum(row.get("time/step", 0.0) for row in rows),
        **{name: last[name] for name in kept if name in last},
    }
