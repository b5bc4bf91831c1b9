"""The PPO stage: starts the roles, runs the loop, publishes the policy."""

from __future__ import annotations

from contextlib import closing

from actors.assembly import roles_of
from actors.claim import CHECKPOINTS, claim, release
from actors.learners import EMA
from actors.placement import require_room
from actors.preparation import Plan, prepare
from actors.records import add_records
from actors.recovery import LookAfter, Losses, through_losses
from actors.sampling_job import sample
from rlhf.artifacts import Artifact, load
from rlhf.at_hand import Run
from rlhf.context import RunContext
from rlhf.models.loading import load_tokenizer
from rlhf.plan.refusal import require_memory
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.loop import Roles, train
from rlhf.ppo.loop_config import RolloutsOnly
from rlhf.ppo.recorder import RunRecorder
from rlhf.telemetry import RayMetrics
from rlhf.termination import Stop, requests, terminated
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.ptx import write_ptx


def run(config: PPOConfig, context: RunContext) -> Artifact:
    """Train, or go on with, the run of `context`; publishes policy and tokenizer as a transformers directory.

    With `loop.kind rollouts_only` it samples instead, and publishes the rollouts.
    """
    plan = prepare(config)
    require_room(config.roles())
    require_memory("ppo", config, context.progress.note)
    claim(context, config)
    watchers = [RayMetrics(Run.of(context.directory, context.stage))]
    recorder = RunRecorder(context.work, config.steps, context.progress, watchers)
    try:
        (sample if isinstance(config.loop, RolloutsOnly) else _train)(config, plan, context, recorder)
    finally:
        recorder.close()
    release(context.work)
    return load(context.directory)


def _train(config: PPOConfig, plan: Plan, context: RunContext, recorder: RunRecorder) -> None:
    """Train to the end, through the loss of any actor."""
    if config.ptx is not None:
        write_ptx(config.ptx, load_tokenizer(config.policy.model), context.work)

    def attempt(look_after: LookAfter) -> None:
        if stop():
            raise terminated(context.stage, f"its newest checkpoint of {config.steps}")
        recorder.enter(recorder.position.step, "start")
        with roles_of(config, plan, context.work, look_after) as roles:
            _to_the_end(config, context, roles, recorder, stop)

    losses = Losses(context.progress.note, "starting all roles again from the newest checkpoint", config)
    with requests(context.progress.note) as stop:
        through_losses(attempt, losses, config.roles(), lambda: recorder.position, stop)


def _to_the_end(
    config: PPOConfig, context: RunContext, roles: Roles, recorder: RunRecorder, stop: Stop
) -> None:
    """From the newest checkpoint to the published policy. Raises Terminated when the run was asked to end."""
    with closing(checkpoints_of(config, context)) as checkpoints:
        state = train(config, roles, checkpoints, recorder, stop)
    if state.step < config.steps:
        raise terminated(context.stage, f"step {state.step} of {config.steps}")
    recorder.enter(state.step, "publish the policy")
    _publish_policy(config, context, roles)


def checkpoints_of(config: PPOConfig, context: RunContext) -> DirectoryCheckpoints:
    """Where a run keeps its state."""
    keeping = Keeping(config.keep_checkpoints, config.best_checkpoint)
    return DirectoryCheckpoints(context.work.absolute() / CHECKPOINTS, keeping, context.progress.note)


def _publish_policy(config: PPOConfig, context: RunContext, roles: Roles) -> None:
    with context.publishing() as draft:
        roles.policy.export(draft.path.absolute()).get()
        tokenizer = load_tokenizer(config.policy.model)
        for directory in (draft.path, *draft.path.glob(EMA)):
            tokenizer.save_pretrained(directory)
        add_records(context, draft)
