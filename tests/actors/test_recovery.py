"""Which errors are a lost process, and what is said of them."""

from __future__ import annotations

import pytest
from ray.exceptions import ActorDiedError, GetTimeoutError, RayError, RayTaskError, TaskCancelledError

from actors.pool import UnderWay
from actors.recovery import Losses, loss_of
from actors.watchdog import Verdict
from rlhf.errors import NumericError, ResourceError, RunError
from rlhf.interfaces import Position

UPDATE = Position(12, "update")


def died(name: str = "policy[1]", said: str = "Worker exits by SIGKILL.") -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = f"The actor died unexpectedly.\n\tclass_name: PolicyProcess\n\tname: {name}\n\tpid: 7\n{said}"
    error.args = (error.error_msg,)
    return error


def task_error(cause: Exception) -> RayTaskError:
    return RayTaskError("PolicyProcess.update", "policy[0] raised", cause, "update", 1, "127.0.0.1")


def test_a_lost_process_is_named_with_step_and_phase() -> None:
    loss = loss_of(died(), UPDATE, None)
    assert loss is not None
    assert str(loss) == "policy[1] was lost in step 12, update: Worker exits by SIGKILL."


def test_so_is_one_whose_result_a_task_was_to_read() -> None:
    loss = loss_of(task_error(died("rollout[0]")), UPDATE, None)
    assert loss is not None and loss.who == "rollout[0]"


@pytest.mark.parametrize("error", [task_error(ValueError("ours")), TaskCancelledError(), task_error(NumericError("x"))])
def test_anything_else_is_none(error: RayError) -> None:
    assert loss_of(error, UPDATE, None) is None
    with pytest.raises(type(error)):
        Losses(pytest.fail).survive(error, UPDATE, None)


def test_a_verdict_says_who_hung() -> None:
    call = UnderWay("critic[0]", "update", None, 1, "node")
    loss = loss_of(died("critic[0]"), UPDATE, Verdict([call], 61.2))
    assert str(loss) == (
        "critic[0] was lost in step 12, update: critic[0] in update did not answer for 61 s (where that is merely "
        "slow, raise deadline_s)"
    )


@pytest.mark.parametrize(
    "cause", [RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes"), MemoryError(),
              RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")],
)
def test_memory_that_ran_out_is_no_passing_fault(cause: Exception) -> None:
    with pytest.raises(ResourceError, match=r"policy\[0\] ran out of memory in step 12, update; lower policy\.mi"):
        loss_of(task_error(cause), UPDATE, None)


@pytest.mark.parametrize(
    ("actor", "setting"),
    [("rollout[1]", "lower rollout.max_sequences"), ("reward.style[0]", "micro_batch_tokens of reward.parts.style, or"),
     ("reference[0]", "lower reference.micro_batch_tokens, or give"), ("experience[0]", "rollout.prompts_per_step")],
)
def test_the_setting_to_lower_is_one_of_the_role(actor: str, setting: str) -> None:
    error = RayTaskError("X.generate", f"ray::{actor}: raised", MemoryError(), "X", 1, "127.0.0.1")
    with pytest.raises(ResourceError) as refused:
        loss_of(error, UPDATE, None)
    said = str(refused.value)
    assert said.startswith(f"{actor} ran out of memory in step 12, update; ") and setting in said


def test_a_loss_is_told_once_and_again_at_the_same_step_ends_the_run() -> None:
    notes: list[str] = []
    losses = Losses(notes.append)
    losses.survive(died(), UPDATE, None)
    losses.survive(died(), Position(13, "update"), None)
    losses.survive(died("critic[0]"), Position(13, "score"), None)
    assert len(notes) == 3 and notes[0].endswith("; starting all roles again from the newest checkpoint")
    with pytest.raises(RunError, match=r"reward\[0\] was lost in step 13, .* it is loss 3 at this step, so starting"):
        losses.survive(died("reward[0]"), Position(13, "score"), None)
    unnamed = Losses(notes.append)
    unnamed.survive(GetTimeoutError("gone"), UPDATE, None)
    unnamed.survive(GetTimeoutError("gone"), UPDATE, None)  # of another actor, for all that is known
    twice = Losses(notes.append)
    twice.survive(died(), UPDATE, None)
    with pytest.raises(RunError, match="it is loss 2 at this step"):
        twice.survive(died(), UPDATE, None)


def test_an_error_without_a_name_is_survived_too() -> None:
    loss = loss_of(GetTimeoutError("gone"), UPDATE, None)
    assert loss is not None and loss.who == "an actor"
