"""Which errors are a lost process, and what is said of them."""

from __future__ import annotations

import re

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    RayError,
    RayTaskError,
    TaskCancelledError,
)

from actors.pool import UnderWay
from actors.recovery import Losses, Phase, loss_of
from actors.watchdog import Verdict
from rlhf.errors import NumericError, RunError
from rlhf.interfaces import Position
from tests.ppo import fakes

UPDATE = Position(12, "update")
CONFIG = fakes.config()


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


def test_an_actor_that_raises_system_exit_is_a_lost_process_with_its_own_words() -> None:
    """As an engine does that has lost a worker process (tests/sampling/test_lost_worker.py), on Kubernetes, too."""
    said = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker exits unexpectedly. Worker exits with an exit code 1. The worker may have exceeded K8s pod memory "
        "limits. a worker of its vLLM engine died"
    )
    loss = loss_of(died("rollout[1]", said), UPDATE, None)
    assert str(loss) == f"rollout[1] was lost in step 12, update: {said.partition('detail: ')[2]}"


def test_work_without_steps_has_phases_only() -> None:
    phase = Phase()
    phase.enter("score")
    loss = loss_of(died(), phase.position, None)
    assert str(loss) == "policy[1] was lost in score: Worker exits by SIGKILL."


def test_so_is_one_whose_result_a_task_was_to_read() -> None:
    loss = loss_of(task_error(died("rollout[0]")), UPDATE, None)
    assert loss is not None and loss.who == "rollout[0]"


@pytest.mark.parametrize("error", [task_error(ValueError("ours")), TaskCancelledError(), task_error(NumericError("x"))])
def test_anything_else_is_none(error: RayError) -> None:
    assert loss_of(error, UPDATE, None) is None
    with pytest.raises(type(error)):
        Losses(pytest.fail, "going on", CONFIG).survive(error, UPDATE, None)


def test_a_verdict_says_who_hung() -> None:
    call = UnderWay("critic[0]", "update", None, 1, "node")
    loss = loss_of(died("critic[0]"), UPDATE, Verdict([call], 61.2))
    assert str(loss) == (
        "critic[0] was lost in step 12, update: critic[0] in update did not answer for 61 s (where that is merely "
        "slow, raise deadline_s)"
    )


def test_a_loss_is_told_once_and_again_at_the_same_step_ends_the_run() -> None:
    notes: list[str] = []
    losses = Losses(notes.append, "going on", CONFIG)
    losses.survive(died(), UPDATE, None)
    losses.survive(died(), Position(13, "update"), None)
    losses.survive(died("critic[0]"), Position(13, "score"), None)
    assert len(notes) == 3 and notes[0].endswith("; going on")
    with pytest.raises(RunError, match=r"reward\[0\] was lost in step 13, .* it is loss 3 at this step, so starting"):
        losses.survive(died("reward[0]"), Position(13, "score"), None)
    unnamed = Losses(notes.append, "going on", CONFIG)
    unnamed.survive(GetTimeoutError("gone"), UPDATE, None)
    unnamed.survive(GetTimeoutError("gone"), UPDATE, None)  # of another actor, for all that is known
    twice = Losses(notes.append, "going on", CONFIG)
    twice.survive(died(), UPDATE, None)
    with pytest.raises(RunError, match="it is loss 2 at this step") as ended:
        twice.survive(died(), UPDATE, None)
    lower = r"where it was killed for want of memory, lower policy.micro_batch_tokens \([\d,]+ now\).*; mend the cause"
    assert re.search(lower, str(ended.value))


def test_an_actor_of_which_ray_says_its_identity_alone_is_named() -> None:
    """As it does of those on a machine that was lost."""
    identity = "3ec0582402cd79c3991fa1b804000000"
    gone = ActorUnavailableError(f"The actor is temporarily unavailable: {identity}", bytes.fromhex(identity))
    loss = loss_of(gone, UPDATE, None, {identity: "policy[0]"}.get)
    assert loss is not None and loss.who == "policy[0]"
    unknown = loss_of(gone, UPDATE, None)
    assert unknown is not None and unknown.who == "an actor"


def test_an_error_without_a_name_is_survived_too() -> None:
    loss = loss_of(GetTimeoutError("gone"), UPDATE, None)
    assert loss is not None and loss.who == "an actor"
