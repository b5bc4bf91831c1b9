"""Real engines and policy ranks for the GPU tests: started, connected, and compared on the tokens that were sampled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from torch import Tensor

from actors.assembly import connect_engines, engine_options, meet
from actors.learners import PolicyProcess
from actors.placement import Placement
from actors.pool import Pool
from actors.preparation import prepare
from actors.residency import start_asleep
from actors.roles import RemotePolicy, RemoteSampler
from actors.rollout import RolloutProcess
from rlhf import partition
from rlhf.batch import concatenate, scatter_rows
from rlhf.config import merge, validate
from rlhf.interfaces import WeightSync
from rlhf.ppo.config import PPOConfig
from tests.actors.learner_states import call

RESPONSES, NEW_TOKENS = 16, 24


@dataclass(frozen=True)
class World:
    """Directories of two policies of one architecture and of a reward model, and a file of prompts."""

    policy: Path
    other: Path
    reward: Path
    prompts: Path

    def config(self, output: Path, *updates: dict) -> PPOConfig:
        """A small PPO run on these models, with `updates` merged over it."""
        content: dict[str, Any] = {
            "output": str(output), "prompts": str(self.prompts), "steps": 3,
            "policy": {"model": str(self.policy)}, "critic": {"model": str(self.reward)},
            "reference": {"model": str(self.policy)}, "reward": {"model": str(self.reward)},
            "rollout": {
                "prompts_per_step": RESPONSES, "max_new_tokens": NEW_TOKENS, "max_model_len": 128, "max_sequences": 16,
            },
        }
        for update in updates:
            content = merge(content, update)
        return validate(PPOConfig, content)


def build_world(root: Path, tied: bool) -> World:
    """Random models of 3 million parameters with heads of 64, which every attention kernel takes, and a tokenizer."""
    from rlhf.models.loading import new_reward_model
    from rlhf.tokenization.train import train_tokenizer

    texts = [f"{k * k % 97} {k * 7 % 89} {k * 3 % 53} 请排序 sort" for k in range(200)]
    tokenizer = train_tokenizer(texts, 400)
    world = World(root / "policy", root / "other", root / "reward", root / "prompts.jsonl")
    for seed, directory in enumerate((world.policy, world.other)):
        _save_policy(directory, tokenizer, seed, tied)
    new_reward_model(world.policy, torch.float32, 0).save_pretrained(world.reward)
    tokenizer.save_pretrained(world.reward)
    records = ({"id": str(k), "prompt": [{"role": "user", "content": text}]} for k, text in enumerate(texts))
    world.prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    return world


def _save_policy(directory: Path, tokenizer: Any, seed: int, tied: bool) -> None:
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    sizes = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=tied, initializer_range=0.05,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )
    Qwen2ForCausalLM(sizes).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


@dataclass(frozen=True)
class Started:
    """A policy and engines that began with other weights."""

    config: PPOConfig
    prompts: Any
    sampler: RemoteSampler
    sync: WeightSync
    policy: Pool
    rollout: Pool

    def gap(self, version: int) -> tuple[float, float]:
        """Sample under `version`, and compare with the learner: largest and mean difference over tokens, nats."""
        batch = self.prompts.batch(version)
        with self.sampler.resident():
            remote = self.sampler.generate(batch, version)
            remote.get()
        parts = ray.get(RemotePolicy(self.policy, False).logprobs(remote).parts)
        rollout = concatenate(ray.get(remote.shards), 0)
        rows = partition.balance(rollout.lengths(), len(parts))
        learner = scatter_rows(parts, rows, rollout.tokens.shape[1])
        difference: Tensor = (learner - rollout.sampler_logprobs)[rollout.response_mask].abs()
        return difference.max().item(), difference.mean().item()


@contextmanager
def started(config: PPOConfig, engine_model: Path, work: Path) -> Iterator[Started]:
    """Engines on `engine_model`, the policy on its own, connected by the way of the config."""
    plan = prepare(config)
    placement = Placement({name: config.roles()[name] for name in ("policy", "rollout")})
    pools = []
    try:
        options = replace(engine_options(config, plan), model=str(engine_model))
        resources = config.rollout.resources
        rollout = Pool.start("rollout", RolloutProcess, placement, resources, (options, resources, plan.pad_token))
        pools.append(rollout)
        if config.rollout.sleep:
            start_asleep(rollout)
        arguments = (config, plan.pad_token, work)
        policy = Pool.start("policy", PolicyProcess, placement, config.policy.resources, arguments)
        pools.append(policy)
        meet(policy).get()
        rollout.call_all("ready").get()
        sampler, sync = connect_engines(config, plan, {"rollout": rollout}, [policy])
        yield Started(config, plan.prompts, sampler, sync, policy, rollout)
    finally:
        for pool in pools:
            pool.stop()
        placement.remove()


def on_device(actor: Any, what: str) -> int:
    """`free`: bytes free on the actor's GPU; `held`: bytes that live tensors of the actor take there."""

    def measure(_process: Any) -> int:
        torch.cuda.synchronize()
        return torch.cuda.mem_get_info()[0] if what == "free" else torch.cuda.memory_allocated()

    return call(actor, measure)
