"""A run survives the loss of any of its processes, and ends with the numbers of a run that nothing disturbed."""

from __future__ import annotations

import random
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pandas
import pytest

from rlhf.errors import RunError
from rlhf.ppo.config import PPOConfig
from tests.chaos.disturber import Blow
from tests.chaos.driver import DriverBlow, through
from tests.chaos.runs import disturbed, evaluate, rows_of, run
from tests.end_to_end.jobs import config_of, context_of, rollout_of, small

pytestmark = pytest.mark.slow
PHASES = ("rollout", "score", "experience", "update", "publish")
BLOWS = [
    Blow("rollout[0]", 2, "rollout", call="generate"), Blow("reward[0]", 3, "score", call="score"),
    Blow("reference[0]", 4, "score", call="logprobs"), Blow("policy[1]", 5, "update", call="update"),
    Blow("policy[1]", 6, "publish", call="weights"), Blow("policy[0]", 7, "checkpoint", call="save"),
]


def settings(**changes):
    return small(steps=8, checkpoint_every=1, transcripts_every=100, **changes)


def test_any_process_may_be_lost_in_any_phase(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    """One loss after the other in one run of two policy ranks; a checkpoint a step, so that one is redone at most."""
    two = settings(policy={"resources": {"ranks": 2}})
    whole = run(config_of(tiny_models, tmp_path / "whole", **two), monkeypatch)
    assert not whole.notes and not whole.struck
    broken = run(config_of(tiny_models, tmp_path / "broken", **two), monkeypatch, *BLOWS)
    assert [struck.blow for struck in broken.struck] == BLOWS
    assert all(struck.stood == (struck.blow.step, struck.blow.phase) for struck in broken.struck)
    assert all(struck.call == struck.blow.call for struck in broken.struck)
    assert len({struck.pid for struck in broken.struck}) == len(BLOWS)
    assert broken.rows == whole.rows
    assert all(struck.redone <= 1 for struck in broken.struck)
    told = broken.losses()
    assert [note.partition(" was lost in step ")[0] for note in told] == [blow.actor for blow in BLOWS]
    for note, blow in zip(told, BLOWS, strict=True):
        assert f"in step {blow.step}, {blow.phase}: " in note and note.endswith("from the newest checkpoint")


HANGING = {"steps": 2, "checkpoint_every": 1, "transcripts_every": 100, "deadline_s": 150.0}


@pytest.fixture(scope="module")
def in_peace(ray_cluster, tiny_models, tmp_path_factory) -> list[dict[str, float]]:
    """Metrics of two steps with every role: two policy ranks, a critic, two engines."""
    with pytest.MonkeyPatch.context() as patch:
        return run(config_of(tiny_models, tmp_path_factory.mktemp("peace") / "ppo", **HANGING), patch).rows


@pytest.mark.chaos  # it waits for the deadline; tests/actors/test_watchdog.py has the watchdog by itself
@pytest.mark.parametrize(("victim", "phase", "call"), [
    ("reward[0]", "score", "score"), ("rollout[1]", "rollout", "generate"), ("policy[1]", "update", "update"),
    ("critic[0]", "update", "update"),
])
def test_a_process_that_hangs_is_named_and_replaced(
    in_peace, tiny_models, tmp_path, monkeypatch, victim: str, phase: str, call: str
) -> None:
    """It alone, also where another waits for it in a collective."""
    blow = Blow(victim, 2, phase, signal.SIGSTOP)
    hung = run(config_of(tiny_models, tmp_path / "hung", **HANGING), monkeypatch, blow)
    assert [struck.stood for struck in hung.struck] == [(2, phase)]
    (told,) = hung.losses()
    named = f"{victim} was lost in step 2, {phase}: {victim} in {call} did not answer for "
    assert told.startswith(named), told
    seconds = int(told.removeprefix(named).split()[0])
    assert HANGING["deadline_s"] <= seconds <= 1.2 * HANGING["deadline_s"], "looks are a tenth of it apart"
    assert hung.rows == in_peace and len(hung.rows) == 2


@pytest.mark.exhaustive
def test_a_loss_that_comes_again_ends_the_run_with_a_diagnosis(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    config = config_of(tiny_models, tmp_path / "again", **settings())
    with pytest.raises(RunError, match=r"rollout\[0\] was lost in step 2, rollout: .* it is loss 2 at this step, so"):
        run(config, monkeypatch, Blow("rollout[0]", 2, "rollout"), Blow("rollout[0]", 2, "rollout"))


@pytest.mark.exhaustive
def test_a_driver_killed_at_five_random_points_leaves_no_trace(ray_cluster, tiny_models, tmp_path) -> None:
    """GRPO: the same metrics and the same rollout tokens, bit for bit, and each step once."""
    from actors import ppo_job

    grpo = small(
        steps=8, checkpoint_every=2, transcripts_every=100, ppo={"advantage": {"kind": "grpo"}},
        policy={"optimizer": {"learning_rate": 0.001}},
        rollout={"save": True, "responses_per_prompt": 2, "prompts_per_step": 7},
    )
    whole = config_of(tiny_models, tmp_path / "whole", **grpo)
    ppo_job.run(whole, context_of(whole.output))
    killed = config_of(tiny_models, tmp_path / "killed", **grpo)
    draw = random.Random("five points 8")  # a checkpoint among them
    steps = sorted(draw.sample(range(1, 9), 5))
    blows = [DriverBlow(step, draw.choice(phases_of(step)), delay_s=draw.uniform(0.0, 0.2)) for step in steps]
    dealt = through("ppo", killed, blows, tmp_path / "plan", ray_cluster)
    assert len({blow.pid for blow in dealt}) == 5
    late = [ORDER.index(blow.stood) - ORDER.index([blow.step, blow.phase]) for blow in dealt]
    assert all(0 <= phases < len(PHASES) for phases in late), f"in the phase, or soon after it, not {late} phases later"
    assert rows_of(killed.output) == rows_of(whole.output)
    assert [row["step"] for row in rows_of(killed.output)] == list(range(1, 9))
    for step in range(1, 9):
        pandas.testing.assert_frame_equal(rollout_of(killed.output, step), rollout_of(whole.output, step))


def phases_of(step: int) -> tuple[str, ...]:
    """A checkpoint is saved every other step."""
    return PHASES if step % 2 else (*PHASES, "checkpoint")


ORDER = [[step, phase] for step in range(1, 9) for phase in phases_of(step)] + [[8, "publish the policy"]]


class Ended(Exception):
    """The driver is over."""


@dataclass
class Ends:
    """Ends the run when a phase begins, in this process; its actors are stopped."""

    step: int
    phase: str
    pools: Mapping[str, Any] = field(default_factory=dict)

    def leave(self) -> None: ...

    def enter(self, step: int, phase: str) -> None:
        if (step, phase) == (self.step, self.phase):
            raise Ended

    def join(self) -> None: ...


@pytest.mark.exhaustive
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_ranks(
    ray_cluster, tiny_models, tmp_path, monkeypatch, before: int, after: int
) -> None:
    """Of policy and critic, after two of four steps: to 1e-6, for sums run in another order."""
    from actors import ppo_job

    def config(name: str, ranks: int) -> PPOConfig:
        learner = {"resources": {"ranks": ranks}, "optimizer": {"epsilon": 1e-3}}  # a small ε would magnify noise
        return config_of(tiny_models, tmp_path / name, steps=4, transcripts_every=100, policy=learner, critic=learner)

    whole = run(config("whole", before), monkeypatch)
    with pytest.raises(Ended), disturbed(monkeypatch, Ends(3, "update")):
        ppo_job.run(config("moved", before), context_of(tmp_path / "moved"))
    moved = run(config("moved", after), monkeypatch)
    assert [row["step"] for row in moved.rows] == [1, 2, 3, 4] and moved.rows[:2] == whole.rows[:2]
    assert moved.rows[2:] != whole.rows[2:], "the ranks are as they were"
    for found, wanted in zip(moved.rows, whole.rows, strict=True):
        assert found == pytest.approx(wanted, rel=1e-6, abs=1e-6)


@pytest.mark.exhaustive
def test_an_evaluation_survives_the_loss_of_an_engine_and_of_its_scorer(
    ray_cluster, tiny_models, tmp_path, monkeypatch
) -> None:
    evaluated = partial(evaluate, tiny_models, tmp_path, monkeypatch)
    table, metrics, _ = evaluated("whole")
    blows = (
        Blow("rollout[0]", 0, "rollout of sft", call="generate"),
        Blow("evaluation[0]", 0, "score", call="perplexities"),
    )
    again, found, outcome = evaluated("broken", *blows)
    assert [struck.blow for struck in outcome.struck] == list(blows)
    assert [struck.call for struck in outcome.struck] == [blow.call for blow in blows]
    assert [note.partition(":")[0] for note in outcome.losses()] == [
        "rollout[0] was lost in rollout of sft", "evaluation[0] was lost in score",
    ]
    assert all(note.endswith("; starting the evaluation again") for note in outcome.losses())
    pandas.testing.assert_frame_equal(again, table)
    assert found == metrics


@pytest.mark.exhaustive
def test_rollouts_alone_go_on_after_the_last_one(ray_cluster, tiny_models, tmp_path, monkeypatch) -> None:
    only = small(steps=3, loop={"kind": "rollouts_only"})
    whole = run(config_of(tiny_models, tmp_path / "whole", **only), monkeypatch)
    broken = run(config_of(tiny_models, tmp_path / "broken", **only), monkeypatch, Blow("rollout[0]", 2, "rollout"))
    assert broken.losses() == [
        f"{broken.losses()[0].partition('; ')[0]}; starting all roles again after the last rollout"
    ]
    assert broken.struck[0].resumed == 2 and broken.rows == whole.rows
    for step in (1, 2, 3):
        pandas.testing.assert_frame_equal(*(rollout_of(tmp_path / name, step) for name in ("whole", "broken")))
