"""Where memory ran out: the role, the place, and what to set lower, with the value in force."""

from __future__ import annotations

from typing import Any

import pytest
from ray.exceptions import RayError, RayTaskError

from actors.recovery import Losses
from rlhf.config import validate
from rlhf.data.pairs import PairsConfig
from rlhf.errors import ResourceError
from rlhf.evaluation.config import EvaluateConfig
from rlhf.interfaces import Position
from rlhf.stage import ActorStageConfig
from tests.ppo import fakes

UPDATE = Position(12, "update")
LEARNER = {"model": "somewhere", "micro_batch_tokens": 4096}
STYLE = {"style": {"kind": "model", "model": "somewhere", "weight": 0.5, "micro_batch_tokens": 2048}}


def raised_by(actor: str, cause: Exception) -> RayTaskError:
    return RayTaskError("X.update", f"ray::{actor}: raised", cause, "X", 1, "127.0.0.1")


def said_of(error: RayError, config: ActorStageConfig, position: Position = UPDATE) -> str:
    with pytest.raises(ResourceError) as refused:
        Losses(pytest.fail, "going on", config).survive(error, position, None)
    return str(refused.value)


@pytest.mark.parametrize(
    "cause", [RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), MemoryError(),
              RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")],
)
def test_a_learner_is_named_with_its_token_budget(cause: Exception) -> None:
    assert said_of(raised_by("policy[0]", cause), fakes.config()) == (
        "policy[0] ran out of memory in step 12, update; lower policy.micro_batch_tokens (8,192 now), or set "
        "policy.gradient_checkpointing=true or a higher policy.zero.stage (2 now), or give the role more ranks or a "
        "larger node"
    )


@pytest.mark.parametrize(
    ("changes", "saving"),
    [
        ({}, "lower policy.micro_batch_tokens (4,096 now), or set policy.gradient_checkpointing=true or a higher "
             "policy.zero.stage (2 now), or give"),
        ({"graph_tokens": 16384}, "(4,096 now) or policy.graph_tokens (16,384 now), or set"),
        ({"gradient_checkpointing": True}, "lower policy.micro_batch_tokens (4,096 now), or set a higher "
                                           "policy.zero.stage (2 now), or give"),
        ({"gradient_checkpointing": True, "zero": {"stage": 3}}, "policy.micro_batch_tokens (4,096 now), or give"),
    ],
)
def test_what_is_done_already_is_not_proposed(changes: dict[str, Any], saving: str) -> None:
    assert saving in said_of(raised_by("policy[1]", MemoryError()), fakes.config(policy={**LEARNER, **changes}))


@pytest.mark.parametrize(
    ("actor", "saving"),
    [
        ("rollout[1]", "lower rollout.max_sequences (256 now) or rollout.kv_cache_gib (1 now), or give"),
        ("critic[0]", "lower critic.micro_batch_tokens (4,096 now), or set critic.gradient"),
        ("reference[0]", "lower reference.micro_batch_tokens (16,384 now), or give"),
        ("reward[0]", "lower reward.micro_batch_tokens (16,384 now), or give"),
        ("reward.style[0]", "lower reward.parts.style.micro_batch_tokens (2,048 now), or give"),
        ("experience[0]", "lower rollout.prompts_per_step (2 now) or rollout.max_new_tokens (256 now), or give"),
    ],
)
def test_the_setting_to_lower_is_one_of_the_role(actor: str, saving: str) -> None:
    config = fakes.config(critic=LEARNER, reward={"model": "somewhere", "parts": STYLE})
    said = said_of(raised_by(actor, MemoryError()), config)
    assert said.startswith(f"{actor} ran out of memory in step 12, update; ") and saving in said


def test_other_stages_have_settings_of_their_own() -> None:
    resources = {"resources": {"gpus": 1}, "gpu_memory_fraction": 0.9}
    evaluate = validate(EvaluateConfig, {"output": "out", "models": {"sft": "a"}, "prompts": "p", "sampler": resources})
    pairs = validate(PairsConfig, {"output": "out", "model": "a", "prompts": "p"})
    scores = Position(0, "score")
    assert "in score; lower micro_batch_tokens (16,384 now), or give" in said_of(
        raised_by("evaluation[0]", MemoryError()), evaluate, scores
    )
    assert "lower sampler.max_sequences (256 now) or sampler.gpu_memory_fraction (0.9 now), or give" in said_of(
        raised_by("rollout[0]", MemoryError()), evaluate, scores
    )
    assert "lower sampler.max_sequences (256 now) or sampler.kv_cache_gib (1 now), or give" in said_of(
        raised_by("rollout[0]", MemoryError()), pairs
    )
