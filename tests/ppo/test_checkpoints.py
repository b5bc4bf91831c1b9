"""Checkpoint directories: the newest sound one is chosen, a draft or a damaged one never, and the oldest go."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from rlhf.cli import main
from rlhf.config import dump
from rlhf.errors import RunError
from rlhf.ppo.loop import LoopState, Roles, train
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from rlhf.training.listing import checkpoints_of
from tests.limits import HANG_S
from tests.ppo import fakes


def checkpoints(directory: Path, keep: int = 9, best_by: str | None = None, note=lambda said: None):
    return DirectoryCheckpoints(directory, Keeping(keep, best_by), note)


def save(directory: Path, *steps: int, keep: int = 9, best_by: str | None = None) -> Roles:
    """Checkpoints whose weights name their step: policy k, critic −k, β k/100; the metric `score` is k modulo 4."""
    roles = fakes.roles()
    for step in steps:
        roles.policy.weight, roles.critic.weight = float(step), float(-step)
        kept = checkpoints(directory, keep, best_by)
        kept.save(roles, LoopState(step, step / 100), {"score": step % 4, "broken": math.nan})
        kept.finish()
    return roles


def restored(directory: Path, note=lambda said: None) -> tuple[LoopState | None, float, float]:
    roles = fakes.roles()
    state = checkpoints(directory, note=note).restore(roles)
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
    checkpoints(tmp_path).restore(again)
    assert again.policy.log == ["load policy", "load critic", "await load policy", "await load critic"]


class CutOff:
    """A learner that cannot be reached any more: what it was asked to save it writes later, when it likes."""

    def save(self, directory: Path) -> CutOff:
        self.directory = directory
        return self

    def get(self) -> None:
        raise ConnectionError("no answer")

    def write_on(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / "weight.json").write_text("half a num")


def test_what_a_rank_writes_after_it_was_given_up_is_in_no_checkpoint(tmp_path: Path) -> None:
    """The next attempt saves the same step meanwhile."""
    roles, cut_off = fakes.roles(), CutOff()
    with pytest.raises(ConnectionError):
        checkpoints(tmp_path).save(replace(roles, policy=cut_off), LoopState(4, 0.0), {})
    cut_off.write_on()
    again = checkpoints(tmp_path)
    assert again.restore(roles) is None and names(tmp_path) == []
    critic = fakes.Pending([], "save critic", cut_off.write_on)  # the critic is awaited after the policy
    again.save(replace(roles, critic=SimpleNamespace(save=lambda directory: critic)), LoopState(4, 0.0), {})
    again.finish()
    cut_off.write_on()
    assert again.restore(replace(roles, critic=SimpleNamespace(load=lambda directory: critic))) == LoopState(4, 0.0)


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


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def link_a_file(checkpoint: Path) -> None:
    """The same bytes, but they can be changed where they lie, after they were looked at."""
    (checkpoint / "policy" / "weight.json").rename(checkpoint.parent / "elsewhere.json")
    (checkpoint / "policy" / "weight.json").symlink_to(checkpoint.parent / "elsewhere.json")


def link_a_directory(checkpoint: Path) -> None:
    (checkpoint / "policy").rename(checkpoint.parent / "elsewhere")
    (checkpoint / "policy").symlink_to(checkpoint.parent / "elsewhere")


def list_what_lies_outside(checkpoint: Path, name: str) -> None:
    """A manifest, rightly sealed, that names a file of another directory."""
    manifest = checkpoint / "checkpoint.json"
    listed = json.loads(manifest.read_text())
    listed["files"][name] = listed["files"]["policy/weight.json"]
    (checkpoint.parent / "weight.json").write_bytes((checkpoint / "policy" / "weight.json").read_bytes())
    manifest.write_text(json.dumps(listed))
    (checkpoint / "checkpoint.sha256").write_text(hashlib.sha256(manifest.read_bytes()).hexdigest() + "\n")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (link_a_file, "policy/weight.json is a link, and a checkpoint holds files alone"),
        (link_a_directory, "policy/weight.json is missing"),
        (lambda c: (c / "more").symlink_to(c.parent), "more was not there when it was written"),
        (lambda c: list_what_lies_outside(c, "../weight.json"), "../weight.json is missing"),
        (lambda c: list_what_lies_outside(c, "/etc/hostname"), "/etc/hostname is missing"),
        (lambda c: shorten(c / "policy" / "weight.json"), "policy/weight.json has 2 of 3 bytes"),
        (lambda c: (c / "critic" / "weight.json").unlink(), "critic/weight.json is missing"),
        (lambda c: (c / "critic" / "weight.json").write_text(""), "critic/weight.json has 0 of 4 bytes"),
        (lambda c: (c / "checkpoint.json").unlink(), "has no checkpoint.json"),
        (lambda c: (c / "checkpoint.sha256").unlink(), "has no checkpoint.sha256"),
        (lambda c: (c / "policy" / "more.json").write_text("1"), "policy/more.json was not there when it was written"),
    ],
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path: Path, damage, said: str) -> None:
    save(tmp_path, 2, 4)
    damage(tmp_path / "step_000004")
    noted: list[str] = []
    assert restored(tmp_path, noted.append) == (LoopState(2, 0.02), 2.0, -2.0)
    told = "it is passed over, and now called damaged_step_000004"
    assert noted == [f"{tmp_path}/step_000004 is damaged: {said}; {told}"]
    # What is written next, even of an earlier step, is not thrown away for the sake of the damaged one.
    save(tmp_path, 3, keep=1)
    assert restored(tmp_path) == (LoopState(3, 0.03), 3.0, -3.0)


def test_what_was_passed_over_goes_with_what_is_older_than_what_stays(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    flip(tmp_path / "step_000004" / "policy" / "weight.json", 0)
    restored(tmp_path)
    save(tmp_path, 4, keep=2)
    assert names(tmp_path) == ["damaged_step_000004", "step_000002", "step_000004"]
    save(tmp_path, 6, keep=1)
    assert names(tmp_path) == ["step_000006"]


def test_one_changed_bit_in_any_byte_of_any_file_is_seen(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    files = [path for path in (tmp_path / "step_000004").rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        for place in range(path.stat().st_size):
            flip(path, place)
            noted: list[str] = []
            assert restored(tmp_path, noted.append)[0] == LoopState(2, 0.02), (path, place)
            assert path.name in noted[0]
            (tmp_path / "damaged_step_000004").rename(tmp_path / "step_000004")
            flip(path, place)
    assert restored(tmp_path)[0] == LoopState(4, 0.04)


def test_a_run_whose_checkpoints_are_all_damaged_does_not_start_over_silently(tmp_path: Path) -> None:
    save(tmp_path, 2)
    flip(tmp_path / "step_000002" / "policy" / "weight.json", 0)
    refusal = r"every checkpoint is damaged \(step_000002: policy/weight.json has changed .*\); restore one from a copy"
    for _ in range(2):
        with pytest.raises(RunError, match=refusal):
            restored(tmp_path)
    flip(tmp_path / "step_000002" / "policy" / "weight.json", 0)
    assert restored(tmp_path)[0] == LoopState(2, 0.02), "nothing was renamed, for it may have been the disk"


def test_the_newest_stay_and_damaged_ones_do_not_count(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000004"]
    shorten(tmp_path / "step_000004" / "policy" / "weight.json")
    save(tmp_path, 5, keep=2)
    assert names(tmp_path) == ["step_000003", "step_000004", "step_000005"]
    save(tmp_path, 6, keep=2)
    assert names(tmp_path) == ["step_000005", "step_000006"]


def test_the_best_stays_beside_the_newest(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 5, 6, keep=1, best_by="score")
    assert names(tmp_path) == ["step_000003", "step_000006"]
    save(tmp_path, 7, keep=1, best_by="score")  # as good as step 3, and later
    assert names(tmp_path) == ["step_000007"]
    save(tmp_path, 8, keep=1, best_by="no such metric")
    assert names(tmp_path) == ["step_000008"]


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path: Path) -> None:
    save(tmp_path, 2, 4)
    flip(tmp_path / "step_000004" / "policy" / "weight.json", 0)
    save(tmp_path, 4)
    assert restored(tmp_path)[0] == LoopState(4, 0.04)
    assert names(tmp_path) == ["step_000002", "step_000004"]


def test_a_role_that_cannot_save_leaves_the_older_checkpoint_in_place(tmp_path: Path) -> None:
    roles = save(tmp_path, 2)
    roles.critic.save = lambda directory: fakes.Pending([], "save", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoints(tmp_path).save(roles, LoopState(4, 0.5), {})
    assert restored(tmp_path)[0] == LoopState(2, 0.02)
    assert names(tmp_path) == ["step_000002"]


def test_a_checkpoint_is_sealed_beside_the_run_and_its_error_is_raised_when_asked(tmp_path: Path, monkeypatch) -> None:
    began, may_go_on = threading.Event(), threading.Event()

    def slow(directory: Path, content) -> None:
        began.set()
        may_go_on.wait(HANG_S)
        raise PermissionError("no")

    monkeypatch.setattr("rlhf.training.checkpoint.seal", slow)
    kept = checkpoints(tmp_path)
    kept.save(fakes.roles(), LoopState(2, 0.1), {})
    assert began.wait(HANG_S) and not kept.published()  # the run goes on meanwhile
    kept.check()  # nothing is wrong yet, and nothing is waited for
    may_go_on.set()
    kept.close()
    with pytest.raises(PermissionError):
        kept.check()
    kept.check()  # it was said


@pytest.mark.parametrize("every", [2, 4])
def test_a_checkpoint_that_could_not_be_kept_ends_the_run_at_the_next_step(
    tmp_path: Path, monkeypatch, every: int
) -> None:
    """Not when the next checkpoint is due: here the failure is awaited, so that it stands before the step begins."""
    def refuses(directory: Path, content) -> None:
        raise PermissionError("no")

    class Awaited(DirectoryCheckpoints):
        def save(self, *of: object) -> None:
            super().save(*of)
            self._beside.submit(int).result()

    monkeypatch.setattr("rlhf.training.checkpoint.seal", refuses)
    recorder = fakes.FakeRecorder()
    with pytest.raises(PermissionError):
        train(fakes.config(steps=20, checkpoint_every=every), fakes.roles(), Awaited(tmp_path, Keeping(1)), recorder)
    assert [step for step, _ in recorder.rows] == list(range(1, every + 1))


def test_the_json_lists_every_file_with_its_size_and_hash(tmp_path: Path) -> None:
    save(tmp_path, 2)
    content = json.loads((tmp_path / "step_000002" / "checkpoint.json").read_text())

    def entry(text: str) -> dict:
        return {"bytes": len(text), "sha256": hashlib.sha256(text.encode()).hexdigest()}

    assert content == {
        "format": 1, "state": {"step": 2, "kl_coef": 0.02, "prompts_used": 0}, "numbers": {"score": 2},
        "files": {"critic/weight.json": entry("-2.0"), "policy/weight.json": entry("2.0")},
    }


def test_a_full_disk_costs_one_checkpoint_and_is_said_in_words(tmp_path: Path) -> None:
    """By what a role raises; a disk that is really full is in test_full_disk.py."""
    roles = save(tmp_path, 2)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    roles.critic.save = lambda directory: fakes.Pending([], "save", full)
    said = r"no room for a checkpoint: it needs 0\.0 MiB as the last one took, .* \(step_000002 is untouched\); free"
    with pytest.raises(RunError, match=said):
        checkpoints(tmp_path).save(roles, LoopState(4, 0.5), {})
    assert restored(tmp_path)[0] == LoopState(2, 0.02) and names(tmp_path) == ["step_000002"]


def listed(tmp_path: Path, capsys, *more: str) -> tuple[int, list[str]]:
    """Exit code and lines of `rlhf checkpoints` about a run with three of them."""
    work = tmp_path / "run.work"
    if not work.exists():
        save(work / "checkpoints", 2, 3, 4)
        (work / "config.yaml").write_text(dump(fakes.config(best_checkpoint="score")))
    with pytest.raises(SystemExit) as ended:
        main(["checkpoints", str(tmp_path / "run"), *more])
    said = capsys.readouterr()
    return ended.value.code or 0, (said.out + said.err).splitlines()


def test_the_command_lists_and_verifies(tmp_path: Path, capsys) -> None:
    assert listed(tmp_path, capsys) == (0, [
        "step_000002  0.0 MiB  score 2  sound", "step_000003  0.0 MiB  score 3  sound, best",
        "step_000004  0.0 MiB  score 0  sound, newest",
    ])
    flip(tmp_path / "run.work" / "checkpoints" / "step_000004" / "critic" / "weight.json", 1)
    code, lines = listed(tmp_path, capsys)
    changed = "critic/weight.json has changed since it was written (its SHA-256 differs)"
    assert code == 1 and lines[1:] == [
        "step_000003  0.0 MiB  score 3  sound, newest, best", f"step_000004  0.0 MiB  damaged: {changed}"
    ]
    code, lines = listed(tmp_path, capsys, "--export", str(tmp_path / "plain"))
    assert code == 2 and lines[0].endswith(f"is damaged: {changed}; take another step")
    code, lines = listed(tmp_path, capsys, "--export", str(tmp_path / "plain"), "--step", "9")
    assert code == 2 and "has no checkpoint of step 9; list them without --export" in lines[0]


def test_the_command_lists_what_was_passed_over_as_history(tmp_path: Path, capsys) -> None:
    whole, directory = listed(tmp_path, capsys), tmp_path / "run.work" / "checkpoints"
    flip(directory / "step_000004" / "critic" / "weight.json", 1)
    restored(directory)
    assert listed(tmp_path, capsys) == (0, [
        whole[1][0], "step_000003  0.0 MiB  score 3  sound, newest, best",
        "damaged_step_000004  0.0 MiB  damaged: passed over by a run",
        f"no run reads what was passed over; to delete it: rm -r {directory}/damaged_step_000004",
    ])


def test_a_list_of_a_live_run_has_no_checkpoint_that_goes_meanwhile(tmp_path: Path) -> None:
    """One writes and prunes as fast as it can, the other lists: never an error, never one called damaged."""
    over, config = threading.Event(), fakes.config(best_checkpoint="score", keep_checkpoints=1)

    def write() -> None:
        step = 1  # a checkpoint is written over only where it was damaged
        while not over.is_set():
            step += 1
            save(tmp_path / "checkpoints", step, keep=1)

    save(tmp_path / "checkpoints", 1)
    writer = threading.Thread(target=write)
    writer.start()
    try:
        lists = []
        while len({checkpoint.path for found in lists for checkpoint in found}) <= 10:  # it lives
            lists.append(list(checkpoints_of(tmp_path, config)))
    finally:
        over.set()
        writer.join()
    assert {checkpoint.wrong for found in lists for checkpoint in found} == {None}


@pytest.mark.parametrize("place", ["damage", "size_of", "contents"])
def test_a_checkpoint_that_is_pruned_while_it_is_looked_at_is_not_listed(tmp_path: Path, monkeypatch, place) -> None:
    """At each of the places where it can happen."""
    from rlhf.training import listing

    save(tmp_path / "checkpoints", 2, 4)
    whole = getattr(listing, place)

    def pruned_first(path: Path):
        if path.name == "step_000002":
            shutil.rmtree(path, ignore_errors=True)
        return whole(path)

    monkeypatch.setattr(listing, place, pruned_first)
    found = list(checkpoints_of(tmp_path, fakes.config()))
    assert [(checkpoint.path.name, checkpoint.wrong) for checkpoint in found] == [("step_000004", None)]


def test_steps_beyond_a_million_are_ordered_by_number(tmp_path: Path) -> None:
    save(tmp_path, 999_999, 1_000_000, keep=1)
    assert names(tmp_path) == ["step_1000000"]
    assert restored(tmp_path)[0] == LoopState(1_000_000, 10_000.0)


def test_a_file_that_cannot_be_read_is_damage(tmp_path: Path, monkeypatch) -> None:
    save(tmp_path, 2, 4)

    def bad_sector(path: Path) -> str:
        if "step_000004" in str(path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr("rlhf.training.seal._digest", bad_sector)
    (tmp_path / "step_000009.tar").write_text("no checkpoint")
    noted: list[str] = []
    assert restored(tmp_path, noted.append)[0] == LoopState(2, 0.02)
    assert "cannot be read (Input/output error)" in noted[0]


def test_a_directory_without_checkpoints_is_refused(tmp_path: Path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["checkpoints", str(tmp_path)])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"rlhf: {tmp_path}: no checkpoints there; give the output of a PPO, pretraining, SFT or reward model run, or "
        "the run directory of a pipeline with PPO\n"
    )
