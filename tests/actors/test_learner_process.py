"""A learner's process on a CPU: precision of its weights, and its way off the device and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.learners import PolicyProcess
from rlhf.config import validate
from rlhf.ppo.config import PPOConfig
from tests.actors.learner_states import call, precisions, sums_of_states, train_once

BFLOAT16 = {"precision": "bfloat16", "zero": {"stage": 2}, "optimizer": {"learning_rate": 1e-4, "warmup_fraction": 0.0}}


@pytest.fixture(scope="module")
def learner(ray_cluster: str, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One rank of a policy in bfloat16."""
    model, reward = {"model": str(tiny_models.tied)}, {"model": str(tiny_models.reward)}
    config = validate(PPOConfig, {
        "output": "unused", "prompts": str(tiny_models.prompts), "policy": {**model, **BFLOAT16}, "critic": reward,
        "reference": model, "reward": reward, "rollout": {"weight_sync": {"max_gap": 1.0}},
    })
    work: Path = tmp_path_factory.mktemp("work")
    actor = ray.remote(PolicyProcess).options(num_cpus=0).remote(0, config, 0, work)
    ray.get(actor.join.remote(*ray.get(actor.meeting_place.remote())))
    yield actor
    ray.kill(actor)


@pytest.mark.slow
def test_bfloat16_keeps_float32_masters(learner: Any) -> None:
    assert call(learner, precisions) == ({torch.bfloat16}, {torch.float32})


@pytest.mark.slow
def test_states_that_left_the_device_come_back_unchanged(learner: Any) -> None:
    """DeepSpeed's own way off the device and back; on a CPU both ends are host memory."""
    trained = call(learner, train_once)
    call(learner, lambda process: process.learner.engine.leave_device())
    call(learner, lambda process: process.learner.engine.return_to_device())
    assert call(learner, sums_of_states) == trained
    assert call(learner, train_once) != trained
