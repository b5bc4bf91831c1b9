"""The PPO stage: starts the roles, runs the loop, publishes the policy."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.experience import ExperienceProcess
from actors.learners import EMA, CriticProcess, PolicyProcess
from actors.placement import Placement, require_room
from actors.pool import Pending, Pool, process_environment
from actors.residency import SharedDevices, SyncOnSharedDevices, start_asleep
from actors.roles import (
    NoCritic,
    RemoteCritic,
    RemoteExperienceMaker,
    RemotePolicy,
    RemoteReference,
    RemoteReward,
    RemoteSampler,
)
from actors.rollout import RolloutProcess
from actors.scorers import ReferenceProcess, RewardProcess
from actors.weight_sync import weight_sync
from rlhf import unfinished
from rlhf.artifacts import Artifact, load, write_json
from rlhf.context import RunContext
from rlhf.errors import DataError, RunError
from rlhf.interfaces import Collector, GroupFilter, WeightSync, gather
from rlhf.metrics import read_json_lines
from rlhf.models.loading import (
    check_reward_model,
    check_same_tokenizer,
    check_tokenizer,
    load_config,
    load_tokenizer,
    require_chat_template,
)
from rlhf.ppo.algorithm import InformativeGroups
from rlhf.ppo.collect import SampleAndScore, UntilInformative, WithGreedyBaseline
from rlhf.ppo.config import PPOConfig, Resources
from rlhf.ppo.loop import Roles, train
from rlhf.ppo.prompts import PromptStream, read_prompts
from rlhf.ppo.recorder import RunRecorder
from rlhf.ppo.warmup import WaitingPolicy
from rlhf.sampling.options import context_sizes, sampler_options, sampling_options
from rlhf.sampling.vllm_engine import EngineOptions
from rlhf.training.checkpoint import DirectoryCheckpoints
from rlhf.training.ptx import write_ptx

CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class Plan:
    """What is known of a run before any actor starts."""

    prompts: PromptStream
    pad_token: int
    end_token: int
    max_model_len: int


def run(config: PPOConfig, context: RunContext) -> Artifact:
    """Train, or go on with, the run of `context`; publishes policy and tokenizer as a transformers directory."""
    plan = prepare(config)
    require_room(config.roles())
    claim(context, config)
    if config.ptx is not None:
        write_ptx(config.ptx, load_tokenizer(config.policy.model), context.work)
    recorder = RunRecorder(context.work, config.steps, context.progress)
    try:
        with roles_of(config, plan, context.work) as roles:
            checkpoints = DirectoryCheckpoints(context.work.absolute() / CHECKPOINTS, config.keep_checkpoints)
            train(config, roles, checkpoints, recorder)
            return _publish(config, context, roles)
    finally:
        recorder.close()


def prepare(config: PPOConfig) -> Plan:
    """Check every input before anything starts. Raises ModelError, DataError or ConfigError."""
    tokenizer = load_tokenizer(config.policy.model)
    require_chat_template(tokenizer, config.policy.model)
    model = load_config(config.policy.model)
    check_tokenizer(tokenizer, model, config.policy.model)
    sizes = {config.reference.model: load_config(config.reference.model)}
    sizes[config.reward.model] = check_reward_model(config.reward.model)
    if config.critic is not None:
        sizes[config.critic.model] = load_config(config.critic.model)
    for source, found in sizes.items():
        check_tokenizer(tokenizer, found, source)
        check_same_tokenizer(tokenizer, source, config.policy.model)
    max_model_len, room = context_sizes(config.rollout, model, "rollout")
    prompts = read_prompts(config.prompts, tokenizer, min(room, config.rollout.max_prompt_tokens or room))
    if not prompts:
        raise DataError(f"{config.prompts}: holds no prompts")
    rollout = config.rollout
    stream = PromptStream(prompts, rollout.prompts_per_step, config.seed, rollout.responses_per_prompt)
    return Plan(stream, tokenizer.pad_token_id, tokenizer.eos_token_id, max_model_len)


def claim(context: RunContext, config: PPOConfig) -> None:
    """Bind the work directory to this config and these inputs.

    What a finished run of another config left there is discarded: its result is published. An unfinished run of
    another config is a RunError once it has a checkpoint, for going on from that would mix the two.
    """
    path = context.work / "claim.json"
    mine = {"config": config.model_dump(mode="json", exclude={"output", "cluster"}), "inputs": dict(context.inputs)}
    theirs = _read_claim(path) if path.is_file() else mine
    different = sorted(unfinished.differences(mine, {key: theirs[key] for key in mine}))
    if different and theirs.get("finished"):
        discard(context.work)
    elif different and any((context.work / CHECKPOINTS).glob("*")):
        raise RunError(unfinished.refusal(context.work, different))
    context.work.mkdir(parents=True, exist_ok=True)
    if different or not path.is_file():
        write_json(path, mine)


def _read_claim(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except json.JSONDecodeError:
        raise RunError(f"{path}: damaged, so it is not known whose run this is; delete {path.parent}") from None


def discard(work: Path) -> None:
    """Empty a work directory; the resolved config in it is already this run's."""
    for path in work.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != "config.yaml":
            path.unlink()


@contextmanager
def roles_of(config: PPOConfig, plan: Plan, work: Path) -> Iterator[Roles]:
    """Start every role's actors in parallel; stop them all at the end."""
    placement = Placement(config.roles())
    pools: list[Pool] = []
    try:
        pools.extend(start_pools(config, plan, work, placement))
        yield connect(config, plan, {pool.role: pool for pool in pools})
    finally:
        for pool in pools:
            pool.stop()
        placement.remove()


def start_pools(config: PPOConfig, plan: Plan, work: Path, placement: Placement) -> Iterator[Pool]:
    """Rollout, policy, critic where the method has one, reference, reward, experience."""
    roles, learner = config.roles(), (config, plan.pad_token, work.absolute())
    engines = (engine_options(config, plan), roles["rollout"], plan.pad_token)
    rollout = Pool.start("rollout", RolloutProcess, placement, roles["rollout"], engines)
    yield rollout
    if config.rollout.sleep:
        start_asleep(rollout)
    yield Pool.start("policy", PolicyProcess, placement, roles["policy"], learner)
    if config.critic is not None:
        yield Pool.start("critic", CriticProcess, placement, roles["critic"], learner)
    yield Pool.start("reference", ReferenceProcess, placement, roles["reference"], (config, plan.pad_token))
    yield Pool.start("reward", RewardProcess, placement, roles["reward"], (config, plan.pad_token, plan.end_token))
    maker = ray.remote(ExperienceProcess).options(
        name="experience[0]", num_cpus=0, runtime_env={"env_vars": process_environment(Resources(cpus=0))},
        # it writes into the run's directory, where the driver is
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True),
    )
    yield Pool("experience", [maker.remote(0, config, plan.pad_token, work.absolute())])


def connect(config: PPOConfig, plan: Plan, pools: Mapping[str, Pool]) -> Roles:
    """Let the learners' ranks meet, wait for every role, and hand them to the loop."""
    trained = [pools[name] for name in ("policy", "critic") if name in pools]
    joining = [meet(pool) for pool in trained]
    ready = [pools[name].call_all("ready") for name in ("rollout", "reference", "reward", "experience")]
    gather(*joining, *ready)
    sampler, weights = connect_engines(
        config, plan, pools["rollout"], [*trained, pools["reference"], pools["reward"]]
    )
    experience = RemoteExperienceMaker(pools["experience"].actors[0])
    return Roles(
        collector(config, plan.prompts, sampler, RemoteReward(pools["reward"]), experience),
        RemoteReference(pools["reference"]),
        WaitingPolicy(RemotePolicy(pools["policy"], config.kl.place == "loss"), config.ppo.critic_warmup_steps),
        RemoteCritic(pools["critic"]) if "critic" in pools else NoCritic(),
        experience, weights,
    )


def collector(
    config: PPOConfig, prompts: PromptStream, sampler: RemoteSampler, reward: RemoteReward, groups: GroupFilter
) -> Collector:
    """How the method comes by its rollouts."""
    if isinstance(config.ppo.groups, InformativeGroups):
        return UntilInformative(sampler, reward, prompts, groups, config.ppo.groups.max_rollouts)
    plain = SampleAndScore(sampler, reward, prompts)
    return WithGreedyBaseline(plain, sampler.greedy()) if config.ppo.advantage.greedy else plain


def connect_engines(
    config: PPOConfig, plan: Plan, rollout: Pool, others: Sequence[Pool]
) -> tuple[RemoteSampler, WeightSync]:
    """The sampler, and the way of new weights into it. `others`: the policy first, then the other roles."""
    sampling = sampling_options(config.rollout, plan.end_token)
    sync = weight_sync(config.rollout.weight_sync.kind, others[0], rollout)
    if not config.rollout.sleep:
        return RemoteSampler(rollout, sampling), sync
    place = config.place_of("rollout")
    devices = SharedDevices(rollout, [pool for pool in others if config.place_of(pool.role) == place])
    return RemoteSampler(rollout, sampling, devices.for_rollout), SyncOnSharedDevices(sync, devices)


def meet(pool: Pool) -> Pending[None]:
    """All ranks of a pool join at rank 0's address."""
    address, port = ray.get(pool.actors[0].address.remote())
    return pool.call_all("join", address, port)


def engine_options(config: PPOConfig, plan: Plan) -> EngineOptions:
    """How each rollout engine is built."""
    transfer = {"object_store": None, "nccl": "nccl", "cuda_ipc": "ipc"}[config.rollout.weight_sync.kind]
    options = sampler_options(config.rollout, config.policy.model, plan.max_model_len)
    return replace(options, sleep=config.rollout.sleep, weight_transfer=transfer)


def _publish(config: PPOConfig, context: RunContext, roles: Roles) -> Artifact:
    rows = read_json_lines(context.work / "metrics.jsonl")
    with context.publishing() as draft:
        roles.policy.export(draft.path.absolute()).get()
        tokenizer = load_tokenizer(config.policy.model)
        for directory in (draft.path, *draft.path.glob(EMA)):
            tokenizer.save_pretrained(directory)
        shutil.copy(context.work / "metrics.jsonl", draft.path)
        if (context.work / "transcripts").is_dir():
            shutil.copytree(context.work / "transcripts", draft.path / "transcripts")
        draft.metrics.update(_summary(rows))
    claimed = context.work / "claim.json"
    write_json(claimed, {**json.loads(claimed.read_text()), "finished": True})
    return load(context.directory)


def _summary(rows: list[dict]) -> dict[str, float]:
    last = rows[-1]
    kept = ("reward/score", "reward/gold", "kl/per_response", "policy/entropy", "response/length_mean")
    return {
        "steps": len(rows),
        "logprob_gap_max": max(row["sync/logprob_gap_max"] for row in rows),
        "seconds": sum(row["time/step"] for row in rows),
        **{name: last[name] for name in kept if name in last},
    }
