"""A run survives the loss of any of its processes, and ends with the numbers of a run that nothing disturbed."""

from __future__ import annotations

import signal

import pytest

from rlhf.errors import RunError
from tests.chaos.disturber import Blow
from tests.chaos.runs import run
from tests.end_to_end.jobs import config_of, small

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
BLOWS = [
    (Blow("rollout[0]", 2, "rollout"), "generate"), (Blow("reward[0]", 3, "score"), "score"),
    (Blow("reference[0]", 4, "score"), "logprobs"), (Blow("policy[1]", 5, "update"), "update"),
    (Blow("policy[1]", 6, "publish"), "weights"), (Blow("policy[0]", 7, "checkpoint"), "save"),
]


def settings(**changes):
    return small(steps=8, checkpoint_every=1, transcripts_every=100, **changes)


def test_any_process_may_be_lost_in_any_phase(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    """One loss after the other in one run of two policy ranks; a checkpoint a step, so that one is redone at most."""
    two = settings(policy={"resources": {"ranks": 2}})
    whole = run(config_of(tiny_models, tmp_path / "whole", **two), monkeypatch)
    assert not whole.notes and not whole.struck
    broken = run(config_of(tiny_models, tmp_path / "broken", **two), monkeypatch, *(blow for blow, _ in BLOWS))
    assert [(struck.blow, struck.call) for struck in broken.struck] == BLOWS
    assert len({struck.pid for struck in broken.struck}) == len(BLOWS)
    assert broken.rows == whole.rows
    told = [note for note in broken.notes if "was lost in step" in note]
    assert [note.partition(" was lost in step ")[0] for note in told] == [blow.actor for blow, _ in BLOWS]
    for note, (blow, _) in zip(told, BLOWS, strict=True):
        assert f"in step {blow.step}, {blow.phase}: " in note and note.endswith("from the newest checkpoint")


@pytest.mark.chaos  # it waits for the deadline; tests/actors/test_watchdog.py has the watchdog by itself
def test_a_process_that_hangs_is_named_and_replaced(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    config = config_of(tiny_models, tmp_path / "hung", **settings() | {"steps": 2, "deadline_s": 150.0})
    hung = run(config, monkeypatch, Blow("reward[0]", 2, "score", signal.SIGSTOP))
    (told,) = [note for note in hung.notes if "was lost in step" in note]
    assert told.startswith("reward[0] was lost in step 2, score: reward[0] in score did not answer for 1")
    assert len(hung.rows) == 2


def test_a_loss_that_comes_again_ends_the_run_with_a_diagnosis(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    config = config_of(tiny_models, tmp_path / "again", **settings())
    with pytest.raises(RunError, match=r"rollout\[0\] was lost in step 2, rollout: .* it is loss 2 at this step, so"):
        run(config, monkeypatch, Blow("rollout[0]", 2, "rollout"), Blow("rollout[0]", 2, "rollout"))
