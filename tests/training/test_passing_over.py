"""Damaged checkpoints leave the list that Ray Train goes on from. The lists are written, and read again, by Ray Train's
own keeper of checkpoints."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from ray.train import Checkpoint

from rlhf.cli import main
from rlhf.errors import RunError
from rlhf.training import listing
from rlhf.training.attempts import KeepSnapshot, begin
from rlhf.training.shares import seal_share
from rlhf.training.snapshot import COPY, NAME, saved
from tests.training.keeper import keeper, report_of, resumed

pytestmark = pytest.mark.filterwarnings("ignore:The `(json|parse_obj)` method is deprecated")  # in Ray Train


def save(attempt: Path, *losses: float) -> None:
    """A checkpoint each, named by its number, as the controller of a job takes them in."""

    async def report() -> None:
        kept = keeper(attempt)
        first = max((each.order for each in saved(attempt)), default=-1) + 2
        for number, loss in enumerate(losses, first):
            directory = attempt / f"checkpoint_{number}"
            directory.mkdir()
            (directory / "state.pt").write_bytes(bytes(10))
            seal_share(directory, 0, 1)
            checkpoint = Checkpoint.from_directory(directory)
            kept.after_report(report_of(checkpoint, loss), [])
            KeepSnapshot(attempt).after_report(None, [], checkpoint)

    asyncio.run(report())


def harm(attempt: Path, *numbers: int) -> None:
    for number in numbers:
        (attempt / f"checkpoint_{number}" / "state.pt").write_bytes(bytes(9) + b"\1")


def names(attempt: Path) -> list[str]:
    return sorted(path.name for path in attempt.glob("*checkpoint_*/"))


@pytest.mark.parametrize(("losses", "left"), [
    ([5, 4, 3, 2, 1], [4, 5]), ([1, 2, 3, 4, 5], [1, 4, 5]), ([3, 1, 2, 4, 5], [2, 4, 5]), ([2, 1, 1, 4, 5], [3, 4, 5]),
])
def test_the_newest_two_and_the_best_stay(tmp_path: Path, losses: list[float], left: list[int]) -> None:
    first = begin(tmp_path, "abc")
    save(first, *losses)
    assert names(first) == [f"checkpoint_{number}" for number in left]
    assert resumed(begin(tmp_path, "abc"))[0] == "checkpoint_5"


def test_a_damaged_one_is_named_and_the_one_before_it_used(tmp_path: Path) -> None:
    said: list[str] = []
    save(begin(tmp_path, "abc"), 3, 2, 1)
    harm(tmp_path / "abc.0001", 3)
    second = begin(tmp_path, "abc", said.append)
    assert resumed(second) == ("checkpoint_2", ["checkpoint_2"])
    assert names(second) == ["checkpoint_2", "damaged_checkpoint_3"]
    assert said == [
        f"{second}/checkpoint_3 is damaged: state.pt has changed since it was written; it is passed over, and now "
        f"called damaged_checkpoint_3"
    ]
    assert (second / NAME).read_text() == (second / COPY).read_text()


def test_a_damaged_best_one_is_said_to_change_the_result(tmp_path: Path) -> None:
    said: list[str] = []
    save(begin(tmp_path, "abc"), 1, 2, 3, 2.5)
    harm(tmp_path / "abc.0001", 1)
    assert resumed(begin(tmp_path, "abc", said.append)) == ("checkpoint_4", ["checkpoint_3", "checkpoint_4"])
    assert len(said) == 1 and "it was the best, with a validation loss of 1: the best of the others is pub" in said[0]


def test_one_that_is_gone_is_passed_over_too(tmp_path: Path) -> None:
    said: list[str] = []
    save(begin(tmp_path, "abc"), 3, 2)
    (tmp_path / "abc.0001" / "checkpoint_2").rename(tmp_path / "elsewhere")
    assert resumed(begin(tmp_path, "abc", said.append)) == ("checkpoint_1", ["checkpoint_1"])
    assert "checkpoint_2 is damaged: it is not there; it is passed over" in said[0]


def test_a_job_without_a_sound_one_is_refused_and_may_be_mended(tmp_path: Path) -> None:
    save(begin(tmp_path, "abc"), 3, 2)
    harm(tmp_path / "abc.0001", 1, 2)
    for attempt in ("abc.0002", "abc.0003"):
        refusal = rf"{attempt}: every checkpoint is damaged \(checkpoint_2: state.pt has changed .*\); restore one fr"
        with pytest.raises(RunError, match=refusal):
            begin(tmp_path, "abc")
    (tmp_path / "abc.0003" / "checkpoint_1" / "state.pt").write_bytes(bytes(10))
    assert resumed(begin(tmp_path, "abc"))[0] == "checkpoint_1"


def test_checkpoints_go_on_being_kept_after_one_was_passed_over(tmp_path: Path) -> None:
    save(begin(tmp_path, "abc"), 3, 2, 1)
    harm(tmp_path / "abc.0001", 3)
    second = begin(tmp_path, "abc")
    save(second, 1, 0.5)
    assert [(each.name, each.loss) for each in saved(begin(tmp_path, "abc"))] == [
        ("checkpoint_3", 1), ("checkpoint_4", 0.5)
    ]


def test_what_a_kill_left_half_deleted_goes(tmp_path: Path) -> None:
    save(begin(tmp_path, "abc"), 3, 2)
    (tmp_path / "abc.0001" / ".checkpoint_0.deleted").mkdir()
    assert sorted(path.name for path in begin(tmp_path, "abc").glob("*checkpoint_[0-9]*/")) == [
        "checkpoint_1", "checkpoint_2"
    ]


def listed(tmp_path: Path, capsys, *more: str) -> tuple[int, list[str]]:
    """Exit code and lines of `rlhf checkpoints` about an SFT run."""
    with pytest.raises(SystemExit) as ended:
        main(["checkpoints", str(tmp_path / "sft"), *more])
    said = capsys.readouterr()
    return ended.value.code or 0, (said.out + said.err).splitlines()


def test_the_command_lists_and_verifies(tmp_path: Path, capsys) -> None:
    """Of the newest attempt, what stays."""
    storage = tmp_path / "sft.work" / "ray_train"
    begin(storage, "abc")
    save(begin(storage, "abc"), 1, 5, 3, 2)
    assert listed(tmp_path, capsys) == (0, [
        "checkpoint_1  step 10  0.0 MiB  validation_loss 1  sound, best",
        "checkpoint_3  step 10  0.0 MiB  validation_loss 3  sound",
        "checkpoint_4  step 10  0.0 MiB  validation_loss 2  sound, newest",
    ])
    harm(storage / "abc.0002", 1)
    code, lines = listed(tmp_path, capsys)
    assert code == 1 and lines[0].endswith("validation_loss 1  damaged: state.pt has changed since it was written")
    assert lines[2].endswith("sound, newest, best")
    code, lines = listed(tmp_path, capsys, "--export", str(tmp_path / "plain"))
    assert code == 2 and "--export: is of PPO's checkpoints; " in lines[0]


def test_the_command_lists_what_was_passed_over_as_history(tmp_path: Path, capsys) -> None:
    storage = tmp_path / "sft.work" / "ray_train"
    save(begin(storage, "abc"), 3, 2)
    harm(storage / "abc.0001", 2)
    attempt = begin(storage, "abc", lambda said: None)
    sound = "checkpoint_1  step 10  0.0 MiB  validation_loss 3  sound, newest, best"
    aside = [
        "damaged_checkpoint_2  0.0 MiB  damaged: passed over by a run",
        f"no run reads what was passed over; to delete it: rm -r {attempt}/damaged_checkpoint_2",
    ]
    assert listed(tmp_path, capsys) == (0, [sound, *aside])
    harm(attempt, 1)
    code, lines = listed(tmp_path, capsys)
    assert code == 1 and lines[1:] == aside and "validation_loss 3  damaged: state.pt has changed" in lines[0]
    shutil.rmtree(attempt / "checkpoint_1")
    assert listed(tmp_path, capsys) == (1, aside), "a run would be refused"
    shutil.rmtree(attempt / "damaged_checkpoint_2")
    assert listed(tmp_path, capsys) == (0, [])


@pytest.mark.parametrize("place", ["shares.damage", "size_of"])
def test_one_that_is_deleted_while_it_is_looked_at_is_not_listed(tmp_path: Path, monkeypatch, place: str) -> None:
    attempt = begin(tmp_path / "sft.work" / "ray_train", "abc")
    save(attempt, 3, 2)
    owner, name = (listing.shares, "damage") if "." in place else (listing, place)
    whole = getattr(owner, name)

    def deleted_first(path: Path):
        if path.name == "checkpoint_1":
            shutil.rmtree(path, ignore_errors=True)
        return whole(path)

    monkeypatch.setattr(owner, name, deleted_first)
    assert [each.path.name for each in listing.checkpoints_of_job(attempt)] == ["checkpoint_2"]
