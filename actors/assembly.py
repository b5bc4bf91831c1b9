"""Starts a run's actors where they belong, and hands them to the loop as its roles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from actors.environments import EnvironmentProcess
from actors.experience import ExperienceProcess
from actors.learners import CriticProcess, PolicyProcess
from actors.placement import Placement
from actors.pool import LookAfter, Pending, Pool, process_environment
from actors.preparation import Plan
from actors.residency import SharedDevices, SyncOnSharedDevices, start_asleep
from actors.roles import (
    ConversationSampler,
    NoCritic,
    RemoteCritic,
    RemoteExperienceMaker,
    RemotePolicy,
    RemoteReference,
    RemoteReward,
    RemoteSampler,
    TextReward,
    TokenReward,
)
from actors.rollout import RolloutProcess
from actors.rollout_store import RemoteRolloutStore
from actors.scorers import ReferenceProcess, RewardProcess, TextRewardProcess
from actors.weight_sync import AsLoaded, NoEngines, weight_sync
from rlhf.interfaces import Collector, GroupFilter, WeightSync, gather
from rlhf.ppo.ahead import AfterRollouts, Ahead
from rlhf.ppo.algorithm import InformativeGroups
from rlhf.ppo.collect import SampleAndScore, UntilInformative, WithGreedyBaseline
from rlhf.ppo.config import PPOConfig, reward_role
from rlhf.ppo.loop import Roles
from rlhf.ppo.loop_config import Asynchronous, Replay
from rlhf.ppo.saved import FromFiles, Saving
from rlhf.ppo.warmup import WaitingPolicy
from rlhf.roles import Resources
from rlhf.sampling.options import sampler_options, sampling_options
from rlhf.sampling.vllm_engine import EngineOptions

ROLLOUTS = "rollouts"


@contextmanager
def roles_of(
    config: PPOConfig, plan: Plan, work: Path, look_after: LookAfter = lambda pools: None
) -> Iterator[Roles]:
    """Start every role's actors in parallel; stop them all at the end. `look_after` is given the pools first."""
    with pools_of(config, plan, work) as pools, ExitStack() as closing:
        look_after(pools)
        yield connect(config, plan, pools, work, closing)


@dataclass(frozen=True)
class Sampling:
    """What a run has that only samples: `weights` publishes the policy as it lies on disk."""

    collector: Collector
    weights: WeightSync
    store: RemoteRolloutStore


@contextmanager
def sampling_of(config: PPOConfig, plan: Plan, work: Path, look_after: LookAfter) -> Iterator[Sampling]:
    """Start engines and rewards alone; stop them at the end. `look_after` is given the pools first."""
    with pools_of(config, plan, work) as pools:
        look_after(pools)
        divided = _divided(config)
        gather(*(meet(pool) if role in divided else pool.call_all("ready") for role, pool in pools.items()))
        for pool in pools.values():
            pool.locate()
        sampler, _ = connect_engines(config, plan, pools, [])
        experience = RemoteExperienceMaker(pools["experience"])
        store = RemoteRolloutStore(pools["experience"])
        weights = AsLoaded(pools["rollout"])
        yield Sampling(collector(config, plan, sampler, reward_of(config, pools), experience), weights, store)


@contextmanager
def pools_of(config: PPOConfig, plan: Plan, work: Path) -> Iterator[dict[str, Pool]]:
    """The actors of every role, by role, being started; they are stopped at the end."""
    placement = Placement(config.roles())
    pools: list[Pool] = []
    try:
        pools.extend(_start(config, plan, work.absolute(), placement))
        yield {pool.role: pool for pool in pools}
    finally:
        for pool in pools:
            pool.stop()
        placement.remove()


def _start(config: PPOConfig, plan: Plan, work: Path, placement: Placement) -> Iterator[Pool]:
    """What samples, what trains, and the experience maker, which both need."""
    if config.loop.samples:
        yield from _start_sampling(config, plan, work, placement)
    if config.loop.trains:
        yield from _start_training(config, plan, work, placement)
    # It writes into the run's directory, where the driver is. Ray heeds only hard affinity for what reserves nothing.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    yield Pool("experience", [_helper(ExperienceProcess, "experience[0]", scheduling_strategy=here).remote(
        0, config, plan.pad_token, work
    )])


def _start_sampling(config: PPOConfig, plan: Plan, work: Path, placement: Placement) -> Iterator[Pool]:
    """Engines, their environments, and the parts of the reward."""
    roles = config.roles()
    engines = (engine_options(config, plan), roles["rollout"], plan.pad_token)
    rollout = Pool.start("rollout", RolloutProcess, placement, roles["rollout"], engines)
    yield rollout
    if config.rollout.sleep and config.loop.trains:
        start_asleep(rollout)
    if config.environment is not None:
        yield Pool("environment", [
            _helper(EnvironmentProcess, f"environment[{rank}]").remote(
                rank, config, engine, plan.max_model_len, plan.pad_token
            )
            for rank, engine in enumerate(rollout.actors)
        ])
    learned = config.reward.learned()
    for part in config.reward.contributions():
        name = reward_role(part)
        if part in learned:
            arguments = (name, learned[part], plan.pad_token, plan.end_token)
            yield Pool.start(name, RewardProcess, placement, roles[name], arguments)
        else:
            reader = _helper(TextRewardProcess, f"{name}[0]")
            arguments = (name, config.reward, part, config.policy.model, plan.pad_token, work)
            yield Pool(name, [reader.remote(0, *arguments)])


def _start_training(config: PPOConfig, plan: Plan, work: Path, placement: Placement) -> Iterator[Pool]:
    """Policy, critic where the method has one, and reference."""
    roles, learner = config.roles(), (config, plan.pad_token, work)
    yield Pool.start("policy", PolicyProcess, placement, roles["policy"], learner)
    if config.critic is not None:
        yield Pool.start("critic", CriticProcess, placement, roles["critic"], learner)
    yield Pool.start("reference", ReferenceProcess, placement, roles["reference"], (config, plan.pad_token))


def _helper(actor_class: type, name: str, **options: Any) -> Any:
    """An actor class that reserves nothing: it mostly waits."""
    environment = {"env_vars": process_environment(Resources(cpus=0))}
    return ray.remote(actor_class).options(name=name, num_cpus=0, runtime_env=environment, **options)


def connect(config: PPOConfig, plan: Plan, pools: Mapping[str, Pool], work: Path, closing: ExitStack) -> Roles:
    """Let the ranks meet that compute together, wait for every role, and hand them to the loop."""
    meeting = {"policy", "critic", *_divided(config)} & pools.keys()
    joining = [meet(pool) for role, pool in pools.items() if role in meeting]
    gather(*joining, *(pool.call_all("ready") for role, pool in pools.items() if role not in meeting))
    for pool in pools.values():
        pool.locate()
    experience = RemoteExperienceMaker(pools["experience"])
    rollouts, weights = _rollouts(config, plan, pools, work, closing)
    return Roles(
        rollouts,
        RemoteReference(pools["reference"]),
        WaitingPolicy(RemotePolicy(pools["policy"], config.kl.place == "loss"), config.ppo.critic_warmup_steps),
        RemoteCritic(pools["critic"]) if "critic" in pools else NoCritic(),
        experience, weights,
    )


def _divided(config: PPOConfig) -> set[str]:
    """Roles that do not train and whose weights are divided over their ranks."""
    learned = {reward_role(part): model for part, model in config.reward.learned().items()}
    return {role for role, model in {"reference": config.reference, **learned}.items() if model.divided}


def _rollouts(
    config: PPOConfig, plan: Plan, pools: Mapping[str, Pool], work: Path, closing: ExitStack
) -> tuple[Collector, WeightSync]:
    """How a step comes by its rollout, and how new weights reach who samples."""
    store = RemoteRolloutStore(pools["experience"])
    if isinstance(config.loop, Replay):
        return FromFiles(store, Path(config.loop.rollouts)), NoEngines()
    learned = [pools[reward_role(part)] for part in config.reward.learned()]
    others = [pools[name] for name in ("policy", "critic", "reference") if name in pools]
    sampler, weights = connect_engines(config, plan, pools, [*others, *learned])
    experience = RemoteExperienceMaker(pools["experience"])
    found = collector(config, plan, sampler, reward_of(config, pools), experience)
    if isinstance(config.loop, Asynchronous):
        ahead = Ahead(found, config.loop.staleness, config.steps, store)
        closing.callback(ahead.close)
        found, weights = ahead, AfterRollouts(weights, ahead)
    return Saving(found, store, work.absolute() / ROLLOUTS) if config.rollout.save else found, weights


def reward_of(config: PPOConfig, pools: Mapping[str, Pool]) -> RemoteReward:
    """Every part of the reward with its processes."""
    learned = config.reward.learned()
    parts = config.reward.contributions()
    return RemoteReward([(TokenReward if part in learned else TextReward)(pools[reward_role(part)]) for part in parts])


def collector(
    config: PPOConfig, plan: Plan, sampler: RemoteSampler, reward: RemoteReward, groups: GroupFilter
) -> Collector:
    """How the method comes by its rollouts."""
    if isinstance(config.ppo.groups, InformativeGroups):
        return UntilInformative(sampler, reward, plan.prompts, groups, config.ppo.groups.max_rollouts)
    plain = SampleAndScore(sampler, reward, plan.prompts)
    return WithGreedyBaseline(plain, sampler.greedy()) if config.ppo.advantage.greedy else plain


def connect_engines(
    config: PPOConfig, plan: Plan, pools: Mapping[str, Pool], others: Sequence[Pool]
) -> tuple[RemoteSampler, WeightSync]:
    """The sampler, and the way of new weights into it. `others`: the policy first, then the other roles."""
    sampling, rollout = sampling_options(config.rollout, plan.end_token), pools["rollout"]
    make, players = (ConversationSampler, pools["environment"]) if "environment" in pools else (RemoteSampler, rollout)
    sync: WeightSync = weight_sync(config.rollout.weight_sync.kind, others[0], rollout) if others else NoEngines()
    if not config.rollout.sleep or not others:
        return make(players, sampling), sync
    place = config.place_of("rollout")
    devices = SharedDevices(rollout, [pool for pool in others if config.place_of(pool.role) == place])
    return make(players, sampling, devices.for_rollout), SyncOnSharedDevices(sync, devices)


def meet(pool: Pool) -> Pending[None]:
    """All ranks of a pool join where rank 0 says."""
    address, port = ray.get(pool.ask(0, "meeting_place"))[0]
    return pool.call_all("join", address, port)


def engine_options(config: PPOConfig, plan: Plan) -> EngineOptions:
    """How each rollout engine is built."""
    transfer = {"object_store": None, "nccl": "nccl", "cuda_ipc": "ipc"}[config.rollout.weight_sync.kind]
    options = sampler_options(config.rollout, config.policy.model, plan.max_model_len)
    if not config.loop.trains:
        return options  # nobody to give the device to, and no weights to receive
    return replace(options, sleep=config.rollout.sleep, weight_transfer=transfer)
