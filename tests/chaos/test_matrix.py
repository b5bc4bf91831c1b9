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
    blows = [Blow(victim, step, phase) for step, phase in enumerate(PHASES, 2)]
    broken = run(config_of(tiny_models, tmp_path / "ppo", **SETTINGS), monkeypatch, *blows)
    assert [struck.blow for struck in broken.struck] == blows
    assert len({struck.pid for struck in broken.struck}) == len(blows)
    assert broken.rows == whole.rows
    told = [note for note in broken.notes if "was lost in step" in note]
    with capsys.disabled():
        print()
        for struck in broken.struck:
            print(row(struck, told))
    assert all(redone(struck) <= 1 for struck in broken.struck)
    assert all(is_named(struck, told) for struck in broken.struck)


def redone(struck: Struck) -> int:
    """Steps that were made twice: those since the checkpoint, and the broken one where it had been whole."""
    assert struck.resumed is not None
    return struck.blow.step - struck.resumed + (struck.blow.phase == "checkpoint")


def is_named(struck: Struck, told: list[str]) -> bool:
    return any(f"{struck.blow.actor} was lost in step {struck.blow.step}" in note for note in told)


def row(struck: Struck, told: list[str]) -> str:
    """A line of the table."""
    named = is_named(struck, told)
    doing = struck.call or "nothing"
    return (
        f"| {struck.blow.actor} | {struck.blow.phase} | {doing} | {'named' if named else 'another was named'} | "
        f"{struck.lost_s:.0f} s | {redone(struck)} |"
    )
