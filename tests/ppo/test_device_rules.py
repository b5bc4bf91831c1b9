"""Placements that cannot work are refused before anything starts, each with the key and a remedy."""

from __future__ import annotations

import pytest

from rlhf.config import merge, validate
from rlhf.errors import ConfigError
from rlhf.ppo.config import PPOConfig

BASE = {
    "output": "ppo", "prompts": "prompts.jsonl", "policy": {"model": "sft"}, "critic": {"model": "reward"},
    "reference": {"model": "sft"}, "reward": {"model": "reward"},
}
SHARED = {
    "policy": {"resources": {"gpus": 0.5}},
    "rollout": {"resources": {"gpus": 0.5, "share": "policy"}, "sleep": True, "weight_sync": {"kind": "cuda_ipc"}},
}
SEPARATE = {
    "policy": {"resources": {"gpus": 1}},
    "rollout": {"resources": {"gpus": 1, "ranks": 2}, "weight_sync": {"kind": "nccl"}},
}


def config(*updates: dict) -> PPOConfig:
    merged: dict = BASE
    for update in updates:
        merged = merge(merged, update)
    return validate(PPOConfig, merged)


def test_placements_that_work() -> None:
    config()
    config(SEPARATE)
    config(SEPARATE, {"rollout": {"tensor_parallel": 2, "resources": {"gpus": 2}}})
    halves = {"critic": {"resources": {"gpus": 0.5}}, "reward": {"resources": {"gpus": 0.5, "share": "critic"}}}
    config(SEPARATE, halves)
    config(SHARED)
    config(SHARED, {"policy": {"resources": {"ranks": 4}}, "rollout": {"resources": {"ranks": 2}}})
    config(SHARED, {"policy": {"zero": {"stage": 2, "offload_during_rollout": True}}})
    config(SHARED, {"rollout": {"weight_sync": {"kind": "object_store"}}})


def test_the_engines_may_own_the_devices_that_the_policy_shares() -> None:
    config({
        "rollout": {"resources": {"gpus": 0.5}, "weight_sync": {"kind": "cuda_ipc"}},
        "policy": {"resources": {"gpus": 0.5, "share": "rollout"}},
    })


@pytest.mark.parametrize(
    ("placement", "change", "complaint"),
    [
        (SHARED, {"rollout": {"weight_sync": {"kind": "nccl"}}}, "nccl: refuses two processes on one GPU"),
        (SEPARATE, {"rollout": {"resources": {"gpus": 0.5}}}, "nccl: needs whole GPUs for each engine, not 0.5"),
        (SEPARATE, {"rollout": {"resources": {"gpus": 0}}}, "nccl: needs rollout.resources.gpus"),
        (SEPARATE, {"policy": {"resources": {"gpus": 0}}}, "nccl: needs policy.resources.gpus"),
        (SEPARATE, {"rollout": {"tensor_parallel": 2}}, "tensor_parallel 2: needs rollout.resources.gpus: 2"),
        (SEPARATE, {"rollout": {"weight_sync": {"kind": "cuda_ipc"}}}, "cuda_ipc: needs rollout.resources.share"),
        (SHARED, {"policy": {"resources": {"gpus": 1}}}, "add up to 1.5"),
        (SHARED, {"rollout": {"resources": {"ranks": 2}}}, "larger than the ranks of policy"),
        ({}, {"rollout": {"sleep": True}}, "rollout.sleep: needs rollout.resources.gpus"),
        (SHARED, {"policy": {"zero": {"stage": 3, "offload_during_rollout": True}}}, "needs stage 2"),
        (SHARED, {"critic": {"zero": {"stage": 2, "offload_during_rollout": True}}}, "critic.zero.offload_during"),
        ({}, {"policy": {"precision": "bfloat16"}}, "max_gap: 0.001 is too tight for policy.precision bfloat16"),
        ({}, {"rollout": {"precision": "bfloat16"}}, "start with 1.0"),
    ],
)
def test_a_placement_that_cannot_work_is_refused(placement: dict, change: dict, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint.replace(".", r"\.")):
        config(placement, change)


def test_policy_ranks_that_share_with_more_engines_leave_engines_alone() -> None:
    with pytest.raises(ConfigError, match=r"needs a rank of the policy on every GPU of every engine"):
        config({
            "rollout": {"resources": {"gpus": 0.5, "ranks": 2}, "weight_sync": {"kind": "cuda_ipc"}},
            "policy": {"resources": {"gpus": 0.5, "share": "rollout"}},
        })
