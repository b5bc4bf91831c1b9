"""The loop against in-memory roles: order, versions, recording, resuming."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rlhf.errors import StalePolicyError
from rlhf.ppo.loop import LoopState, train
from rlhf.ppo.warmup import WaitingPolicy
from rlhf.termination import Requests
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.ppo import fakes


def run(config, roles, checkpoints=None, recorder=None) -> LoopState:
    return train(config, roles, checkpoints or fakes.FakeCheckpoints(), recorder or fakes.FakeRecorder())


def test_a_step_reads_like_the_algorithm() -> None:
    log: list[str] = []
    run(fakes.config(steps=1), fakes.roles(log))
    drawn = "+".join(prompt.id for prompt in fakes.PROMPTS.batch(0).prompts)
    assert log == [
        "publish 0", "await publish 0",
        "take memory", f"generate 0 {drawn}", f"await generate 0 {drawn}", "give memory back",
        # All four are at work before the first is waited for.
        "score", "policy logprobs", "reference logprobs", "values",
        "await score", "await policy logprobs", "await reference logprobs", "await values",
        "build experience", "await build experience",
        "update policy", "update critic", "await update policy", "await update critic",
        "transcripts 1", "await transcripts 1",
        "publish 1", "await publish 1",
    ]


def test_every_rollout_is_drawn_from_the_weights_of_the_steps_done() -> None:
    log: list[str] = []
    state = run(fakes.config(steps=3), fakes.roles(log))
    assert [entry.split()[1] for entry in log if entry.startswith("generate")] == ["0", "1", "2"]
    assert [entry for entry in log if entry.startswith("publish")] == [f"publish {k}" for k in range(4)]
    assert state == LoopState(3, 0.05, prompts_used=6)


def test_a_sampler_that_missed_the_weights_stops_the_run() -> None:
    roles, recorder = fakes.roles(), fakes.FakeRecorder()
    roles.weights.loses = (2,)
    with pytest.raises(StalePolicyError, match="holds 1, asked for 2"):
        run(fakes.config(), roles, recorder=recorder)
    assert [step for step, _ in recorder.rows] == [1, 2]


def test_each_step_is_recorded_once_with_what_every_role_said() -> None:
    recorder = fakes.FakeRecorder()
    run(fakes.config(), fakes.roles(), recorder=recorder)
    assert (recorder.begun, [step for step, _ in recorder.rows]) == ([0], [1, 2, 3, 4, 5, 6])
    wanted = {"response/length_mean", "response/length_max", "kl/per_response", "policy/loss", "critic/loss", "kl/coef",
              "policy/version"}
    assert all(set(numbers) == wanted for _, numbers in recorder.rows)
    assert [numbers["policy/version"] for _, numbers in recorder.rows] == [0, 1, 2, 3, 4, 5]


def test_time_of_every_phase_and_throughput_are_recorded() -> None:
    class Everything(fakes.FakeRecorder):
        def record(self, step, numbers):
            self.rows.append((step, dict(numbers)))

    recorder = Everything()
    run(fakes.config(steps=1), fakes.roles(), recorder=recorder)
    _, numbers = recorder.rows[0]
    phases = [numbers[f"time/{name}"] for name in ("rollout", "score", "experience", "update", "publish")]
    assert all(seconds >= 0 for seconds in phases) and sum(phases) <= numbers["time/step"]
    tokens = 2 * numbers["response/length_mean"]
    assert numbers["throughput/tokens_per_s"] == pytest.approx(tokens / numbers["time/step"])


def test_checkpoints_and_transcripts_come_when_due_and_at_the_end() -> None:
    log, checkpoints = [], fakes.FakeCheckpoints()
    run(fakes.config(steps=7, checkpoint_every=3), fakes.roles(log), checkpoints)
    assert [state.step for state, *_ in checkpoints.saved] == [3, 6, 7]
    assert [entry.split()[1] for entry in log if entry.startswith("transcripts")] == ["1", "4", "7"]


@pytest.mark.parametrize("lost_at", [0, 1, 2, 3, 5])
def test_a_run_that_was_killed_goes_on_exactly(lost_at: int) -> None:
    """N steps equal k steps, a kill, and the rest, number for number."""
    whole = fakes.FakeRecorder()
    run(fakes.config(), fakes.roles(kl=lambda step: step % 3), recorder=whole)
    checkpoints, recorder = fakes.FakeCheckpoints(), fakes.FakeRecorder()
    dying = fakes.roles(kl=lambda step: step % 3)
    dying.critic.fails_at = lost_at
    with pytest.raises(RuntimeError, match=f"critic lost at step {lost_at}"):
        run(fakes.config(), dying, checkpoints, recorder)
    log: list[str] = []
    run(fakes.config(), fakes.roles(log, kl=lambda step: step % 3), checkpoints, recorder)
    checkpointed = lost_at - lost_at % 2
    assert recorder.begun == [0, checkpointed]
    assert log[:2] == [f"publish {checkpointed}", f"await publish {checkpointed}"]
    assert recorder.rows == whole.rows


SLEEPING = {
    "rollout": {"prompts_per_step": 2, "sleep": True, "resources": {"gpus": 1}},
    "policy": {"model": "somewhere", "resources": {"share": "rollout", "gpus": 0}},
}


@pytest.mark.parametrize(
    ("phase", "loop", "saved"),
    [
        ("rollout", {}, [2, 3]), ("experience", {}, [2, 3]), ("update", {}, [2, 4]), ("publish", {}, [2, 4]),
        ("score", {"loop": {"kind": "asynchronous"}, "ppo": {"correction": {"kind": "token_tis"}}}, [2, 4]),
        ("rollout", SLEEPING, [2, 4]),
    ],
    ids=str,
)
def test_a_request_gives_up_a_step_whose_update_has_not_begun(phase: str, loop: dict, saved: list[int]) -> None:
    """In step 4 of a run with a checkpoint every two steps; where others have made room or run ahead it is finished.
    Either way the run that goes on repeats nothing and leaves nothing out."""
    stop, whole = Requests(), fakes.FakeRecorder()
    run(fakes.config(**loop), fakes.roles(), recorder=whole)

    class Asking(fakes.FakeRecorder):
        def enter(self, step: int, name: str) -> None:
            if (step, name) == (4, phase) and not stop():
                stop.ask()

    checkpoints, recorder = fakes.FakeCheckpoints(), Asking()
    state = train(fakes.config(**loop), fakes.roles(), checkpoints, recorder, stop)
    assert [kept.step for kept, *_ in checkpoints.saved] == saved and state.step == saved[-1]
    run(fakes.config(**loop), fakes.roles(), checkpoints, recorder)
    assert recorder.begun == [0, saved[-1]] and recorder.rows == whole.rows


def test_a_finished_run_has_nothing_left_to_do() -> None:
    checkpoints, log = fakes.FakeCheckpoints(), []
    run(fakes.config(), fakes.roles(), checkpoints)
    state = run(fakes.config(), fakes.roles(log), checkpoints)
    assert state.step == 6 and not [entry for entry in log if "generate" in entry]


ADAPTIVE = {"control": {"kind": "adaptive", "coef": 0.1, "target": 2.0, "horizon": 10}}


def test_the_adaptive_coefficient_follows_the_kl_and_the_step_logs_the_one_it_used() -> None:
    roles, recorder = fakes.roles(kl=lambda step: 8.0 if step < 2 else 0.0), fakes.FakeRecorder()
    state = run(fakes.config(steps=4, kl=ADAPTIVE), roles, recorder=recorder)
    up, down = 1 + 0.2 * 2 / 10, 1 - 0.2 * 2 / 10
    wanted = [0.1, 0.1 * up, 0.1 * up * up, 0.1 * up * up * down]
    assert roles.experience.coefficients == pytest.approx(wanted)
    assert [numbers["kl/coef"] for _, numbers in recorder.rows] == pytest.approx(wanted)
    assert state.kl_coef == pytest.approx(wanted[-1] * down)


def test_the_adaptive_coefficient_survives_a_kill() -> None:
    kl = {"kl": lambda step: 2.0 + 0.3 * step}
    whole = fakes.roles(**kl)
    run(fakes.config(kl=ADAPTIVE), whole)
    checkpoints, dying, again = fakes.FakeCheckpoints(), fakes.roles(**kl), fakes.roles(**kl)
    dying.policy.fails_at = 3
    with pytest.raises(RuntimeError):
        run(fakes.config(kl=ADAPTIVE), dying, checkpoints)
    run(fakes.config(kl=ADAPTIVE), again, checkpoints)
    assert dying.experience.coefficients[:2] + again.experience.coefficients == whole.experience.coefficients


def test_the_critic_warms_up_before_the_policy_moves(tmp_path: Path) -> None:
    log: list[str] = []
    roles = fakes.roles(log)
    waiting = replace(roles, policy=WaitingPolicy(roles.policy, 2))
    run(fakes.config(steps=4, ppo={"critic_warmup_steps": 2}), waiting, DirectoryCheckpoints(tmp_path, Keeping(1)))
    assert log.count("update critic") == 4 and log.count("update policy") == 2
    assert log.index("update policy") > [k for k, entry in enumerate(log) if entry == "update critic"][1]
