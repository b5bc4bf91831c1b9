"""Where memory ran out: the role, the place, and what to set lower, with the value in force."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from ray._private.utils import format_error_message
from ray.exceptions import ActorDiedError, OutOfMemoryError, RayError, RayTaskError

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
# As Ray 2.60 puts it, by the formats in its raylet; the list of users is in descending order.
KILLED = """{count} worker(s) were killed due to the node running low on memory. \
Memory on the node (IP: 10.0.0.7, ID: 92edc4e97e4dac3cee61126133ee7ab6d0a2ee73803623d24a02979d) was 118.92GB used / \
124.35GB limit (0.956333)
OOM kill reason: Memory usage 127693000000B exceeded threshold of 126845000000B (95.0% of 133521000000B limit)
Object store memory usage: [- objects spillable: 0
- bytes spillable: 0

Eviction Stats:
(global lru) capacity: 35098657996
(global lru) used: 0%]
Ray killed {count} worker(s) based on the killing policy
Considered workers: [
{workers}]
Total non-selected idle workers: 0
Total non-selected idle workers USS bytes: 0.00GB
To see more information about memory usage on this node, use `ray logs raylet.out -ip 10.0.0.7`
Top 10 memory users: PID	MEM(GB)	COMMAND
4711	60.95	ray::policy[0] step 12 update
4712	41.87	ray::critic[0] step 12 update
4713	0.67	ray::reward.style[0]
4714	0.31	ray::reference[0]
Refer to the documentation on how to address the out of memory issue: https://docs.ray.io/en/latest/ray-observability/\
user-guides/debug-apps/debug-memory.html. Set max_restarts and max_task_retries to enable retry when the task crashes \
due to OOM."""


def raised_by(actor: str, cause: Exception) -> RayTaskError:
    return RayTaskError("X.update", f"ray::{actor}: raised", cause, "X", 1, "127.0.0.1")


def raised_in(actor: str | None, call: str, work: Callable[[], Any]) -> RayTaskError:
    """What Ray keeps of a call: its own formatting of the traceback; the cause of a cause, where it asked another."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - as Ray does
        told = format_error_message("".join(traceback.format_exception(error)), task_exception=False)
        cause = error.cause if isinstance(error, RayTaskError) else error
        identity = "3ec0582402cd79c3991fa1b804000000"
        return RayTaskError(call, told, cause, f"ray::{call}", 7, "10.0.0.7", actor, identity)
    raise AssertionError("nothing was raised")


def backward(needs_input_grad: tuple[bool, ...], rows: list[int]) -> Any:
    """As a backward pass has it; rows[0] and needs_input_grad[1] stand in the traceback."""
    return exhausted(rows[0]) if needs_input_grad[1] else None


def exhausted(size: int) -> Any:
    raise RuntimeError(f"CUDA out of memory. Tried to allocate {size}.00 GiB, used are blocks[3] and pool[0]")


def worker(name: str, gib: float, selected: bool = False) -> str:
    said = (
        f"(Actor(3ec0582402cd79c3991fa1b804000000): job ID=04000000, lease ID=06{'f' * 54}, "
        f"task name={name}, required resources={{CPU: 1}}, pid=4713, actual memory used={gib:.2f}GB, "
        f"worker ID=3e3d8f80b70d48b643d79ed2292b5d4f779820a964e55ad65413687d)"
    )
    return f"Selected to kill: {said}" if selected else said


POLICY, STYLED = "policy[0]:PolicyProcess.__init__", "reward.style[0]:RewardProcess.__init__"


def killed(*workers: str) -> OutOfMemoryError:
    count = sum(said.startswith("Selected") for said in workers)
    return OutOfMemoryError(KILLED.format(count=count, workers="\n".join(workers)))


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


def test_lines_of_the_source_in_a_traceback_name_nobody() -> None:
    error = raised_in("policy[1]", "policy[1].update", lambda: backward((True, True), [2]))
    assert "needs_input_grad[1]" in str(error) and "rows[0]" in str(error)
    said = said_of(error.as_instanceof_cause(), fakes.config())
    assert said.startswith("policy[1] ran out of memory in step 12, update; lower policy.")


def test_of_actors_that_call_each_other_the_innermost_ran_out() -> None:
    """An environment calls its engine by the method's own name: there the header says the actor by its repr alone."""
    inner = raised_in("rollout[1]", "RolloutProcess.complete", lambda: backward((True, True), [2]))

    def waits() -> None:
        raise inner.as_instanceof_cause()

    said = said_of(raised_in("environment[1]", "environment[1].generate", waits), fakes.config())
    assert said.startswith("rollout[1] ran out of memory in step 12, update; lower rollout.max_sequences")


def test_a_constructor_is_named_too() -> None:
    error = raised_in(None, "reward[0]:RewardProcess.__init__", lambda: backward((True, True), [2]))
    assert said_of(ActorDiedError(error), fakes.config()).startswith("reward[0] ran out of memory in step 12, update;")


def test_of_the_workers_that_ray_considered_the_killed_one_is_named() -> None:
    config = fakes.config(critic=LEARNER, reward={"model": "somewhere", "parts": STYLE})
    error = killed(worker(STYLED, 0.67, selected=True), worker(POLICY, 60.95))
    saving = "; lower reward.parts.style.micro_batch_tokens (2,048 now), or give the role more ranks"
    assert said_of(error, config).startswith(f"reward.style[0] ran out of memory in step 12, update{saving}")
    needed_by_another = raised_by("experience[0]", error)
    assert said_of(needed_by_another, config).startswith("reward.style[0] ran out of memory in step 12, update;")


def test_of_several_that_were_killed_the_largest_comes_first_with_its_settings() -> None:
    config = fakes.config(critic=LEARNER, reward={"model": "somewhere", "parts": STYLE})
    error = killed(worker(STYLED, 0.67, selected=True), worker(POLICY, 60.95, selected=True))
    said = said_of(error, config)
    assert said.startswith("policy[0] and reward.style[0] ran out of memory in step 12, update; lower policy.micro_")


@pytest.mark.parametrize("stranger", ["trainer[0]:Trainer.__init__", "reward.length[0]:RewardProcess.__init__"])
def test_who_is_no_role_of_the_run_is_not_named(stranger: str) -> None:
    error = killed(worker(stranger, 0.67, selected=True), worker(POLICY, 60.95))
    assert said_of(error, fakes.config()).startswith("a role ran out of memory in step 12, update; lower rollout.")


def test_an_idle_worker_that_was_killed_hands_its_place_to_nobody() -> None:
    idle = "Selected to kill: (Worker with no lease granted: pid=4715, actual memory used=1.00GB, worker ID=5e)"
    error = killed(idle, worker(POLICY, 60.95))
    assert said_of(error, fakes.config()).startswith("a role ran out of memory in step 12, update; lower rollout.")
