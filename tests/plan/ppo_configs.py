"""PPO configs that tests plan."""

from __future__ import annotations

from typing import Any

from rlhf.config import merge, validate
from rlhf.ppo.config import PPOConfig

MINIMAL: dict[str, Any] = {
    "output": "ppo", "prompts": "prompts.jsonl", "policy": {"model": "Llama-3-8B"}, "critic": {"model": "Llama-3-8B"},
    "reference": {"model": "Llama-3-8B"}, "reward": {"model": "Llama-3-8B"},
    "rollout": {"max_model_len": 2048, "max_new_tokens": 1024, "weight_sync": {"max_gap": 1.0}},
}
BF16 = {name: {"precision": "bfloat16"} for name in ("policy", "critic", "reference", "reward", "rollout")}
# Every role with GPUs of its own: two for each learner, one for each frozen model, two engines.
APART: dict[str, Any] = merge(BF16, {
    "policy": {"zero": {"stage": 3}, "gradient_checkpointing": True, "resources": {"ranks": 2, "gpus": 1}},
    "critic": {"zero": {"stage": 3}, "gradient_checkpointing": True, "resources": {"ranks": 2, "gpus": 1}},
    "reference": {"resources": {"gpus": 1}}, "reward": {"resources": {"gpus": 1}},
    "rollout": {"resources": {"ranks": 2, "gpus": 1}, "weight_sync": {"kind": "nccl", "max_gap": 1.0}},
})
SHARED: dict[str, Any] = merge(BF16, {
    "policy": {"zero": {"stage": 3}, "gradient_checkpointing": True, "resources": {"ranks": 8, "gpus": 0.3}},
    "critic": {
        "zero": {"stage": 3}, "gradient_checkpointing": True, "resources": {"ranks": 8, "gpus": 0.2, "share": "policy"},
    },
    "reference": {"resources": {"ranks": 8, "gpus": 0.1, "share": "policy"}},
    "reward": {"resources": {"ranks": 8, "gpus": 0.1, "share": "policy"}},
    "rollout": {
        "sleep": True, "gpu_memory_fraction": 0.4, "weight_sync": {"kind": "cuda_ipc", "max_gap": 1.0},
        "resources": {"ranks": 8, "gpus": 0.3, "share": "policy"},
    },
})


def ppo(*overlays: dict[str, Any]) -> PPOConfig:
    """The minimal config under overlays, validated."""
    merged = MINIMAL
    for overlay in overlays:
        merged = merge(merged, overlay)
    return validate(PPOConfig, merged)
