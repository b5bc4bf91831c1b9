"""Which error of several ranks is told: the loss of one before what the others say of it. Over a hand-made object
store, in which answers come in a given order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError

from actors.errors import users_error
from actors.pool import Pending
from actors.recovery import loss_of
from rlhf.errors import ModelError
from rlhf.interfaces import Position
from rlhf.training.ranks import Rank, join_ranks
from tests.ports import free_port

START = Position(0, "start")
Arrivals = dict[str, Any]  # what is answered, by reference, in the order of arrival; what is not in it never comes


def died(name: str) -> ActorDiedError:
    error = ActorDiedError()
    error.error_msg = f"The actor died unexpectedly.\n\tname: {name}\nWorker exits by SIGKILL."
    return error


def raised(cause: Exception) -> RayTaskError:
    said = f"Traceback (most recent call last):\n{type(cause).__name__}: {cause}"
    return RayTaskError("policy[1].join", said, cause, "ray::policy[1].join", 7, "10.0.0.7").as_instanceof_cause()


def unreachable() -> RayTaskError:
    """As rank 1 raises it when rank 0 serves no meeting place."""
    with pytest.raises(Exception, match="let the nodes of the cluster reach each other's ports") as refused:
        join_ranks(Rank(1, 3, "127.0.0.1", free_port()))
    return raised(refused.value)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch):
    """What the handle over policy's three ranks raises."""

    def of(arrivals: Arrivals) -> RayError:
        def wait(refs: Sequence[str], num_returns: int = 1, timeout: float | None = None, **_: Any) -> tuple:
            come = [ref for ref in arrivals if ref in refs][:num_returns]
            assert come or timeout is not None, "this would hang"
            return come, [ref for ref in refs if ref not in come]

        def get(refs: str | Sequence[str]) -> Any:
            for ref in [refs] if isinstance(refs, str) else refs:
                if isinstance(arrivals[ref], Exception):
                    raise arrivals[ref]

        monkeypatch.setattr(ray, "wait", wait)
        monkeypatch.setattr(ray, "get", get)
        with pytest.raises(RayError) as caught:
            Pending(["rank 0", "rank 1", "rank 2"], lambda _: None).get()
        return caught.value

    return of


@pytest.mark.parametrize("cause", [unreachable, lambda: raised(RuntimeError("Connection closed by peer"))])
@pytest.mark.parametrize("rest", [{}, {"rank 2": raised(RuntimeError("Connection reset by peer"))}])
def test_a_lost_rank_is_told_before_those_that_do_not_reach_it(told, cause, rest: Arrivals) -> None:
    loss = loss_of(told({"rank 1": cause(), **rest, "rank 0": died("policy[0]")}), START, None)
    assert loss is not None and loss.who == "policy[0]"


def test_where_no_rank_is_lost_the_closed_port_is_the_sentence(told) -> None:
    sentence = users_error(told({"rank 1": unreachable()}))
    assert str(sentence).startswith("rank 1 of 3 cannot reach the ranks' meeting place 127.0.0.1:")


def test_any_other_sentence_of_a_rank_is_told_at_once(told) -> None:
    error = told({"rank 1": raised(ModelError("holds no weights")), "rank 0": died("policy[0]")})
    assert str(users_error(error)) == "holds no weights"
