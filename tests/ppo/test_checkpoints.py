"""Checkpoint directories: the newest whole one is chosen, a draft or a damaged one never, and the oldest go."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState, Roles
from rlhf.training.checkpoint import DirectoryCheckpoints
from tests.ppo import fakes


def save(directory: Path, *steps: int, keep: int = 9) -> Roles:
    """Checkpoints whose weights name their step: policy k, critic −k, β k/100."""
    roles = fakes.roles()
    for step in steps:
        roles.policy.weight, roles.critic.weight = float(step), float(-step)
        DirectoryCheckpoints(directory, keep).save(roles, LoopState(step, step / 100))
    return roles


def restored(directory: Path) -> tuple[LoopState | None, float, float]:
    roles = fakes.roles()
    state = DirectoryCheckpoints(directory, keep=9).restore(roles)
    return state, roles.policy.weight, roles.critic.weight


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_nothing_there_means_a_fresh_run(tmp_path: Path) -> None:
    assert restored(tmp_path / "none") == (None, 0.0, 0.0)


def test_the_newest_is_restored_with_every_role_and_the_loops_own_state(tmp_path: Path) -> None:
    save(tmp_path, 2, 4, 10)
    assert restored(tmp_path) == (LoopState(10, 0.1), 10.0, -10.0)


def test_policy_and_critic_are_asked_before_either_is_awaited(tmp_path: Path) -> None:
    roles = save(tmp_path, 1)
    assert roles.policy.log == ["save policy", "save critic", "await save policy", "await save critic"]
    again = fakes.roles()
    DirectoryCheckpoints(tmp_path, 9).restore(again)
    assert again.policy.log == ["load policy", "load critic", "await load policy", "await load critic"]


def test_a_draft_is_no_checkpoint(tmp_path: Path) -> None:
    """A run killed while it wrote step 4 leaves a draft, whole but for its last rename."""
    save(tmp_path, 2, 4)
    (tmp_path / "step_000004").rename(tmp_path / ".step_000004.draft")
    assert restored(tmp_path)[0] == LoopState(2, 0.02)
    save(tmp_path, 4)
    assert restored(tmp_path)[0] == LoopState(4, 0.04)
    assert names(tmp_path) == ["step_000002", "step_000004"]


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: shorten(c / "policy" / "weight.json"), lambda c: (c / "critic" / "weight.json").unlink(),
        lambda c: (c / "checkpoint.json").unlink(), lambda c: (c / "critic" / "weight.json").write_text(""),
    ],
)
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage) -> None:
    save(tmp_path, 2, 4)
    damage(tmp_path / "step_000004")
    assert restored(tmp_path) == (LoopState(2, 0.02), 2.0, -2.0)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over_silently(tmp_path: Path) -> None:
    save(tmp_path, 2)
    shorten(tmp_path / "step_000002" / "policy" / "weight.json")
    with pytest.raises(RunError, match="cut short"):
        restored(tmp_path)


def test_the_newest_stay_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000004"]
    shorten(tmp_path / "step_000004" / "policy" / "weight.json")
    save(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000004", "step_000005"]
    save(tmp_path, 6, keep=2)
    assert names(tmp_path) == ["step_000005", "step_000006"]


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    save(tmp_path, 2)
    roles = fakes.roles()
    roles.policy.weight = 77.0
    DirectoryCheckpoints(tmp_path, 9).save(roles, LoopState(2, 0.5))
    assert restored(tmp_path) == (LoopState(2, 0.5), 77.0, 0.0)
    assert names(tmp_path) == ["step_000002"]


def test_a_role_that_cannot_save_leaves_the_older_checkpoint_in_place(tmp_path: Path) -> None:
    roles = save(tmp_path, 2)
    (tmp_path / ".step_000004.draft").write_text("in the way")
    with pytest.raises(OSError):
        DirectoryCheckpoints(tmp_path, 9).save(roles, LoopState(4, 0.5))
    assert restored(tmp_path)[0] == LoopState(2, 0.02)


def test_the_json_lists_every_file_with_its_size(tmp_path: Path) -> None:
    save(tmp_path, 2)
    content = json.loads((tmp_path / "step_000002" / "checkpoint.json").read_text())
    assert content == {
        "state": {"step": 2, "kl_coef": 0.02, "prompts_used": 0},
        "files": {"policy/weight.json": 3, "critic/weight.json": 4},
    }
