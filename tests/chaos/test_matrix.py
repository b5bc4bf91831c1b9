"""`make chaos`: every role lost in every phase, one run a role; a table of what it cost.

Not part of `make test`, which has six of these cells (tests/end_to_end/test_recovery.py).
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.disturber import Blow, Struck
from tests.chaos.runs import Outcome, run
from tests.end_to_end.jobs import config_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3000)]
PHASES = ("rollout", "score", "experience", "update", "publish", "checkpoint")
ROLES = ("rollout[1]", "policy[1]", "critic[0]", "reference[0]", "reward[0]", "experience[0]")
BUSY = {  # what a victim is asked for in a phase; in the others it has nothing to do, or is asked now and then
    ("rollout", "rollout"): "generate", ("rollout", "publish"): "load_weights",
    ("policy", "score"): "logprobs", ("policy", "update"): "update", ("policy", "publish"): "weights",
    ("policy", "checkpoint"): "save",
    ("critic", "score"): "values", ("critic", "update"): "update", ("critic", "checkpoint"): "save",
    ("reference", "score"): "logprobs", ("reward", "score"): "score", ("experience", "experience"): "build",
}
ASYNCHRONOUS = {
    "steps": 9, "checkpoint_every": 3, "transcripts_every": 100, "loop": {"kind": "asynchronous"},
    "ppo": {"correction": {"kind": "token_tis"}},
}
BETWEEN = [
    Blow("rollout[1]", 2, "rollout", call="generate"), Blow("policy[1]", 5, "update", call="update"),
    Blow("policy[0]", 6, "checkpoint", call="save"), Blow("critic[0]", 8, "update", call="update"),
]
SETTINGS = {"steps": 8, "checkpoint_every": 1, "transcripts_every": 100}


@pytest.fixture(scope="module")
def whole(ray_cluster, tiny_models, tmp_path_factory) -> Outcome:
    """Two policy ranks under ZeRO-2, a critic, two engines; nothing disturbs it."""
    with pytest.MonkeyPatch.context() as patch:
        return run(config_of(tiny_models, tmp_path_factory.mktemp("whole") / "ppo", **SETTINGS), patch)


@pytest.mark.parametrize("victim", ROLES)
def test_a_role_may_be_lost_in_every_phase(
    whole: Outcome, tiny_models, tmp_path: Path, monkeypatch, capsys, victim: str
) -> None:
    role = victim.partition("[")[0]
    blows = [Blow(victim, step, phase, call=BUSY.get((role, phase))) for step, phase in enumerate(PHASES, 2)]
    broken = run(config_of(tiny_models, tmp_path / "ppo", **SETTINGS), monkeypatch, *blows)
    assert [struck.blow for struck in broken.struck] == blows
    assert len({struck.pid for struck in broken.struck}) == len(blows)
    assert all(struck.stood == (struck.blow.step, struck.blow.phase) for struck in broken.struck)
    assert all(struck.call == struck.blow.call for struck in broken.struck if struck.blow.call is not None)
    assert broken.rows == whole.rows
    told = show(capsys, broken)
    assert all(struck.redone <= 1 for struck in broken.struck)
    assert all(is_named(struck, told) for struck in broken.struck)


def test_roles_of_an_asynchronous_run_may_be_lost_between_checkpoints(
    ray_cluster, tiny_models, tmp_path: Path, monkeypatch, capsys
) -> None:
    """A checkpoint every third step, with the rollouts that wait in it."""
    whole = run(config_of(tiny_models, tmp_path / "whole", **ASYNCHRONOUS), monkeypatch)
    broken = run(config_of(tiny_models, tmp_path / "broken", **ASYNCHRONOUS), monkeypatch, *BETWEEN)
    assert [struck.blow for struck in broken.struck] == BETWEEN
    assert [(struck.stood, struck.call) for struck in broken.struck] == [
        ((blow.step, blow.phase), blow.call) for blow in BETWEEN
    ]
    assert broken.rows == whole.rows
    told = show(capsys, broken)
    assert [struck.redone for struck in broken.struck] == [3 if blow.phase == "checkpoint" else blow.step % 3 - 1
                                                            for blow in BETWEEN]
    assert all(is_named(struck, told) for struck in broken.struck)


def show(capsys, broken: Outcome) -> list[str]:
    """Print the rows of a run; what it said of its losses."""
    told = broken.losses()
    with capsys.disabled():
        print()
        for struck in broken.struck:
            print(row(struck, told))
    return told


def is_named(struck: Struck, told: list[str]) -> bool:
    """In the step of the blow, or where it was asked for something next."""
    steps = (struck.blow.step, struck.blow.step + 1)
    return any(f"{struck.blow.actor} was lost in step {step}," in note for note in told for step in steps)


def row(struck: Struck, told: list[str]) -> str:
    """A line of the table."""
    named = is_named(struck, told)
    doing = struck.call or "nothing"
    return (
        f"| {struck.blow.actor} | {struck.blow.phase} | {doing} | {'named' if named else 'another was named'} | "
        f"{struck.lost_s:.0f} s | {struck.redone} |"
    )
