"""Real actors on real models of some size: what one of them held at its peak.

On a CPU by the kernel's own count; `tests/gpu/test_planned_memory.py` starts the same actors on a GPU.
`.venv/bin/python -m tests.plan.actor_memory` prints the table of docs/planning.md. Ray is imported in functions alone:
it reads how it is guarded when it is first imported.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from rlhf.batch import Experience, Rollout, from_completions
from rlhf.config import validate
from rlhf.device import Precision, dtype
from rlhf.plan.demands import Demand, demands
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig
from rlhf.sampling.options import sampler_options, sampling_options

ENVIRONMENT = {"OMP_NUM_THREADS": "2"}
PROMPT, RESPONSE = 64, 64
END = 1  # a token that no row has
SAMPLED = 128  # prompts of an engine at once: a whole step of prefill
Measure = Callable[[Any], float]  # runs in an actor


@dataclass(frozen=True)
class Size:
    """Of a Qwen2 with tied embeddings and 8,000 tokens, in heads of 64."""

    hidden: int
    layers: int
    intermediate: int


SIZES = {"30M": Size(512, 8, 1536), "63M": Size(640, 12, 1920), "89M": Size(768, 12, 2304)}


@dataclass(frozen=True)
class Models:
    """Directories of a policy, and of a reward model of the same sizes."""

    policy: Path
    reward: Path


def build(size: Size, directory: Path, precision: Precision = "float32") -> Models:
    """Random weights."""
    from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2ForSequenceClassification

    sizes = Qwen2Config(
        vocab_size=8000, hidden_size=size.hidden, num_hidden_layers=size.layers, intermediate_size=size.intermediate,
        num_attention_heads=size.hidden // 64, num_key_value_heads=2, max_position_embeddings=512,
        tie_word_embeddings=True, num_labels=1, pad_token_id=0,
    )
    models = Models(directory / "policy", directory / "reward")
    for kind, path in ((Qwen2ForCausalLM, models.policy), (Qwen2ForSequenceClassification, models.reward)):
        kind(sizes).to(dtype(precision)).save_pretrained(path)
    return models


@dataclass(frozen=True)
class Setup:
    """Every role on these models. `rows` of 128 tokens a step make two micro-batches of `tokens`, so that no graph is
    kept from scoring to the update; `gpus`: of each process, 0 for a CPU."""

    models: Models
    stage: int = 2
    precision: Precision = "float32"
    rows: int = 8
    tokens: int = 512
    checkpointing: bool = False
    gpus: float = 0.0

    def config(self) -> PPOConfig:
        """Of a run."""
        role = {
            "precision": self.precision, "micro_batch_tokens": self.tokens,
            "resources": {"threads": 2, "gpus": self.gpus},
        }
        learner = {"zero": {"stage": self.stage}, "gradient_checkpointing": self.checkpointing, **role}
        policy, reward = {"model": str(self.models.policy)}, {"model": str(self.models.reward)}
        return validate(PPOConfig, {
            "output": "unused", "prompts": "unused", "policy": {**policy, **learner}, "critic": {**policy, **learner},
            "reference": {**policy, **role}, "reward": {**reward, **role},
            "rollout": {
                "prompts_per_step": self.rows, "max_new_tokens": RESPONSE, "max_prompt_tokens": PROMPT,
                "max_model_len": PROMPT + RESPONSE, "weight_sync": {"max_gap": 1.0}, "precision": self.precision,
                "gpu_memory_fraction": 0.3, "resources": role["resources"],
            },
        })

    def planned(self, role: str) -> Demand:
        """What the planner says of a role."""
        return next(each for each in demands(self.config(), Sizes()) if each.role == role)

    def batch(self) -> tuple[Rollout, Experience]:
        """Rows of full length and numbers that are finite."""
        rows = self.rows
        rollout = from_completions(
            [[3] * PROMPT] * rows, [[4] * RESPONSE] * rows, [[0.0] * RESPONSE] * rows, [True] * rows, 0, 0
        )
        numbers = torch.randn(7, *rollout.tokens.shape, generator=torch.Generator().manual_seed(0)) * 0.1
        numbers = numbers * rollout.response_mask
        numbers[6] = rollout.response_mask.float()
        return rollout, Experience(rollout.tokens, rollout.attention_mask, rollout.response_mask, *numbers)

    def actor(self, actor_class: type, *arguments: Any) -> Any:
        """Rank 0 of a role in a process of its own."""
        import ray

        options = {"num_cpus": 0, "num_gpus": self.gpus, "runtime_env": {"env_vars": ENVIRONMENT}}
        return ray.remote(actor_class).options(**options).remote(0, *arguments)


def host_peak(_: Any) -> float:
    """The most that the process has held in host memory, bytes."""
    status = Path(f"/proc/{os.getpid()}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    return float(fields["VmHWM"].split()[0]) * 1024


def trained(setup: Setup, role: str, work: Path, measure: Measure = host_peak) -> float:
    """Of the policy or the critic, over two steps: moments are there from the second on."""
    import ray

    from actors.learners import CriticProcess, PolicyProcess

    actor = setup.actor(PolicyProcess if role == "policy" else CriticProcess, setup.config(), 0, work)
    try:
        ray.get(actor.join.remote(*ray.get(actor.meeting_place.remote())))
        rollout, experience = setup.batch()
        score = actor.logprobs if role == "policy" else actor.values
        for step in range(2):
            ray.get(score.remote(rollout))
            ray.get(actor.update.remote(experience, step))
        return ray.get(actor.__ray_call__.remote(measure))
    finally:
        ray.kill(actor)


def scored(setup: Setup, role: str, measure: Measure = host_peak) -> float:
    """Of the reference or the reward model."""
    import ray

    from actors.scorers import ReferenceProcess, RewardProcess

    config = setup.config()
    if role == "reference":
        actor = setup.actor(ReferenceProcess, config, 0)
    else:
        actor = setup.actor(RewardProcess, "reward", config.reward.learned()["model"], 0, END)
    try:
        score = actor.logprobs if role == "reference" else actor.score
        ray.get(score.remote(setup.batch()[0]))
        return ray.get(actor.__ray_call__.remote(measure))
    finally:
        ray.kill(actor)


def sampled(setup: Setup, measure: Measure = host_peak) -> float:
    """Of an engine, which reads as many prompt tokens at once as it may, and samples some."""
    import ray

    from actors.rollout import RolloutProcess

    rollout = setup.config().rollout
    options = sampler_options(rollout, str(setup.models.policy), PROMPT + RESPONSE)
    actor = setup.actor(RolloutProcess, options, rollout.resources, 0)
    try:
        ray.get(actor.keep_weights.remote(0))
        prompts = [[3 + k % 7] * PROMPT for k in range(SAMPLED)]
        sampling = replace(sampling_options(rollout, END), max_new_tokens=4)
        ray.get(actor.generate.remote(prompts, sampling, range(SAMPLED), 0))
        return ray.get(actor.__ray_call__.remote(measure))
    finally:
        ray.kill(actor)


def peak(setup: Setup, role: str, work: Path, measure: Measure = host_peak) -> float:
    """Of any role."""
    if role in ("policy", "critic"):
        return trained(setup, role, work, measure)
    return sampled(setup, measure) if role == "rollout" else scored(setup, role, measure)


def table() -> None:
    """Print what was planned and measured, MiB."""
    print("| actor | planned, MiB | measured, MiB | planned / measured |")
    print("|---|---:|---:|---:|")
    with tempfile.TemporaryDirectory() as root:
        models = {name: build(size, Path(root) / name) for name, size in SIZES.items()}
        for size, role, words, changes in CASES:
            setup = Setup(models[size], **changes)
            planned, held = setup.planned(role).on(None).peak, peak(setup, role, Path(root))
            figures = f"{planned / 2**20:.0f} | {held / 2**20:.0f} | {planned / held:.2f}"
            print(f"| {role} of {size.replace('M', ' million')}, {words} | {figures} |", flush=True)


CASES: list[tuple[str, str, str, dict[str, Any]]] = [
    *((size, "policy", "stage 2, float32", {}) for size in SIZES),
    ("63M", "policy", "stage 0, float32", {"stage": 0}),
    ("63M", "policy", "stage 3, float32", {"stage": 3}),
    ("63M", "policy", "stage 2, bfloat16", {"precision": "bfloat16"}),
    ("30M", "policy", "stage 2, float32, 1,024 tokens", {"rows": 16, "tokens": 1024}),
    ("30M", "policy", "the same, recomputing", {"rows": 16, "tokens": 1024, "checkpointing": True}),
    ("89M", "critic", "stage 2, float32", {}),
    ("89M", "reference", "float32", {}),
    ("89M", "reward", "float32", {}),
    *((size, "rollout", "float32, 1 GiB of KV cache", {}) for size in SIZES),
    ("63M", "rollout", "bfloat16, 1 GiB of KV cache", {"precision": "bfloat16"}),
]


if __name__ == "__main__":
    from actors.session import ray_session
    from rlhf.stage import ClusterConfig

    with ray_session(ClusterConfig(cpus=2, object_store_gib=0.5)):
        table()
