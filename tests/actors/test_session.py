"""A cluster of our own starts on a busy machine, too."""

from __future__ import annotations

import pytest

from actors.session import patiently

SLOW = Exception("The current node timed out during startup. This could happen because …")


def test_a_node_that_was_too_slow_is_started_again() -> None:
    outcomes = [SLOW, SLOW, "started"]

    def start() -> object:
        outcome = outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    assert patiently(start) == "started" and outcomes == []


def test_it_is_not_tried_for_ever() -> None:
    tries = []

    def start() -> None:
        tries.append(1)
        raise SLOW

    with pytest.raises(TimeoutError, match="its node did not start within 30 s, 4 times: let the machine do less"):
        patiently(start)
    assert len(tries) == 4


def test_anything_else_is_no_matter_of_patience() -> None:
    def start() -> None:
        raise ValueError("Ray refuses")

    with pytest.raises(ValueError, match="Ray refuses"):
        patiently(start)
