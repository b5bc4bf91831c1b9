"""Real actors on real models of some size: what one of them held at its peak, by the kernel's own count.

`.venv/bin/python -m tests.plan.actor_memory` prints the table of docs/planning.md, also with glibc's own settings.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from rlhf.batch import Experience, Rollout, from_completions
from rlhf.config import validate
from rlhf.plan.demands import Demand, demands
from rlhf.plan.memory import Memory
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig

ENVIRONMENT = {"OMP_NUM_THREADS": "2"}
ROWS, PROMPT, RESPONSE, BUDGET = 8, 64, 64, 512


@dataclass(frozen=True)
class Size:
    """Of a Qwen2 with tied embeddings and 8,000 tokens."""

    hidden: int
    layers: int
    intermediate: int


SIZES = {"30M": Size(512, 8, 1536), "63M": Size(640, 12, 1920), "89M": Size(768, 12, 2304)}


def build(size: Size, directory: Path) -> Path:
    """Random weights, float32."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(Qwen2Config(
        vocab_size=8000, hidden_size=size.hidden, num_hidden_layers=size.layers, intermediate_size=size.intermediate,
        num_attention_heads=size.hidden // 64, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True,
    ))
    model.save_pretrained(directory)
    return directory


def config_of(model: Path, stage: int, precision: str) -> PPOConfig:
    """Every role on this model; two micro-batches, so that no graph is kept from scoring to the update."""
    learner = {
        "model": str(model), "zero": {"stage": stage}, "precision": precision, "micro_batch_tokens": BUDGET,
        "resources": {"threads": 2},
    }
    frozen = {"model": str(model), "precision": precision, "micro_batch_tokens": BUDGET, "resources": {"threads": 2}}
    return validate(PPOConfig, {
        "output": "unused", "prompts": "unused", "policy": learner, "critic": learner, "reference": frozen,
        "reward": frozen,
        "rollout": {
            "prompts_per_step": ROWS, "max_new_tokens": RESPONSE, "max_prompt_tokens": PROMPT,
            "max_model_len": PROMPT + RESPONSE, "weight_sync": {"max_gap": 1.0},
        },
    })


def predicted(config: PPOConfig, role: str) -> tuple[Demand, Memory]:
    """What the planner says of a role on a CPU."""
    demand = next(each for each in demands(config, Sizes()) if each.role == role)
    return demand, demand.on(None)


def batch() -> tuple[Rollout, Experience]:
    """Rows of full length and numbers that are finite."""
    rollout = from_completions(
        [[3] * PROMPT] * ROWS, [[4] * RESPONSE] * ROWS, [[0.0] * RESPONSE] * ROWS, [True] * ROWS, 0, 0
    )
    numbers = torch.randn(7, *rollout.tokens.shape, generator=torch.Generator().manual_seed(0)) * 0.1
    numbers = numbers * rollout.response_mask
    numbers[6] = rollout.response_mask.float()
    return rollout, Experience(rollout.tokens, rollout.attention_mask, rollout.response_mask, *numbers)


def trained_peak(actor_class: type, config: PPOConfig, work: Path) -> float:
    """Bytes that a learner's actor held at most, over two steps: moments are there from the second on."""
    environment = {"env_vars": ENVIRONMENT}
    actor = ray.remote(actor_class).options(num_cpus=0, runtime_env=environment).remote(0, config, 0, work)
    try:
        ray.get(actor.join.remote(*ray.get(actor.meeting_place.remote())))
        rollout, experience = batch()
        score = actor.logprobs if actor_class.__name__ == "PolicyProcess" else actor.values
        for step in range(2):
            ray.get(score.remote(rollout))
            ray.get(actor.update.remote(experience, step))
        return ray.get(actor.__ray_call__.remote(peak))
    finally:
        ray.kill(actor)


def scored_peak(actor_class: type, config: PPOConfig) -> float:
    """Bytes that the reference's actor held at most."""
    actor = ray.remote(actor_class).options(num_cpus=0, runtime_env={"env_vars": ENVIRONMENT}).remote(0, config, 0)
    try:
        ray.get(actor.logprobs.remote(batch()[0]))
        return ray.get(actor.__ray_call__.remote(peak))
    finally:
        ray.kill(actor)


def peak(_: Any) -> float:
    """Runs in an actor: the most that its process has held, bytes."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return float(fields["VmHWM"].split()[0]) * 1024


def table() -> None:
    """Print what was planned and measured, MiB."""
    from actors.learners import CriticProcess, PolicyProcess
    from actors.scorers import ReferenceProcess

    print("| actor | planned, MiB | measured, MiB | planned / measured |")
    print("|---|---:|---:|---:|")
    others = [("policy", "63M", 0, "float32"), ("policy", "63M", 3, "float32"), ("policy", "63M", 2, "bfloat16")]
    frozen = [("critic", "89M", 2, "float32"), ("reference", "89M", 2, "float32")]
    with tempfile.TemporaryDirectory() as root:
        models = {name: build(size, Path(root) / name) for name, size in SIZES.items()}
        for role, size, stage, precision in [*(("policy", size, 2, "float32") for size in SIZES), *others, *frozen]:
            config = config_of(models[size], stage, precision)
            planned = predicted(config, role)[1].peak
            actor = PolicyProcess if role == "policy" else CriticProcess
            scores = role == "reference"
            held = scored_peak(ReferenceProcess, config) if scores else trained_peak(actor, config, Path(root))
            name = f"{role} {size}, {precision}" if scores else f"{role} {size}, stage {stage}, {precision}"
            print(f"| {name} | {planned / 2**20:.0f} | {held / 2**20:.0f} | {planned / held:.2f} |", flush=True)


if __name__ == "__main__":
    from actors.session import ray_session
    from rlhf.stage import ClusterConfig

    with ray_session(ClusterConfig(cpus=2, object_store_gib=0.5)):
        table()
