"""An interrupted run belongs to its config."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf import artifacts, unfinished
from rlhf.config import dump, validate
from rlhf.errors import ModelError, RunError
from rlhf.ownership import config_beside, config_once_taken
from rlhf.stage import StageConfig
from rlhf.stages.sft import SftConfig


class Trained(StageConfig):
    """A stage that writes checkpoints."""

    steps: int = 5
    rate: float = 1e-5


def config(root: Path, **changes: float) -> Trained:
    return Trained(output=root / "out", **changes)


def interrupted(root: Path, checkpoint: str = "checkpoints/step_000002", **settings: float) -> Path:
    """The work directory that a killed run leaves behind."""
    work = root / "out.work"
    (work / checkpoint).mkdir(parents=True)
    (work / "config.yaml").write_text(dump(config(root, **settings)))
    return work


@pytest.mark.parametrize("checkpoint", ["checkpoints/step_000002", "ray_train/0123/checkpoint_7"])
def test_another_config_is_told_which_keys_differ(tmp_path: Path, checkpoint: str) -> None:
    work = interrupted(tmp_path, checkpoint)
    assert unfinished.problem(work, config(tmp_path, steps=6, rate=2e-5)) == (
        f"{work}: holds an unfinished run that differs in rate, steps; give this run another output, or delete the "
        f"directory to start over"
    )


def test_the_same_config_goes_on_also_when_it_runs_elsewhere(tmp_path: Path) -> None:
    work = interrupted(tmp_path)
    elsewhere = Trained(output=tmp_path / "other", cluster={"cpus": 7})
    assert unfinished.problem(work, config(tmp_path)) is None
    assert unfinished.problem(work, elsewhere) is None


@pytest.mark.parametrize("refused", [True, False])
def test_a_config_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch, refused: bool) -> None:
    """The disk fails while the config of the same run is written again, or while it is put back."""
    work = interrupted(tmp_path)
    before = (work / "config.yaml").read_bytes()

    def fails(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises((RunError, OSError)), monkeypatch.context() as patch:
        if not refused:
            patch.setattr(artifacts.os, "fsync", fails)
        with config_beside(work, config(tmp_path)):
            patch.setattr(artifacts.os, "fsync", fails)
            raise RunError("refused")
    assert (work / "config.yaml").read_bytes() == before
    assert unfinished.problem(work, config(tmp_path)) is None


def test_a_config_whose_run_has_taken_the_directory_stays(tmp_path: Path) -> None:
    """It met a full disk hours later, which is no refusal: the checkpoints there are its own."""
    work = interrupted(tmp_path)
    mine = config(tmp_path, steps=6)
    with pytest.raises(RunError, match="full"), config_once_taken(work, mine) as take:
        take()
        raise RunError("full")
    assert unfinished.problem(work, mine) is None
    assert "differs in steps" in str(unfinished.problem(work, config(tmp_path)))


@pytest.mark.parametrize("end", [ModelError("no such model"), KeyboardInterrupt(), SystemExit(143)])
def test_a_start_that_comes_to_nothing_leaves_a_finished_run_as_it_was(tmp_path: Path, end: BaseException) -> None:
    """Both may be run again: the one is up to date, the other begins anew."""
    work, before, mine = interrupted(tmp_path), config(tmp_path), config(tmp_path, steps=6)
    published(before)
    with pytest.raises(type(end)), config_once_taken(work, mine):
        assert (work / "config.yaml").read_text() == dump(before), "also if the process is killed here"
        raise end
    assert (work / "config.yaml").read_text() == dump(before)
    assert unfinished.problem(work, mine) is None and unfinished.problem(work, before) is None


def test_a_run_that_takes_nothing_over_leaves_its_config(tmp_path: Path) -> None:
    work = tmp_path / "new.work"
    with config_once_taken(work, config(tmp_path)):
        assert (work / "config.yaml").is_file(), "nothing is there that another config could mix with"
    work = interrupted(tmp_path)
    with config_once_taken(work, config(tmp_path, steps=6)):
        pass
    assert (work / "config.yaml").read_text() == dump(config(tmp_path, steps=6))


def published(config: Trained) -> None:
    with artifacts.publishing(config.output, "trained", artifacts.digest(config.identity()), {}) as draft:
        (draft.path / "weights").write_text("1")


def test_without_a_checkpoint_there_is_nothing_to_lose(tmp_path: Path) -> None:
    work = interrupted(tmp_path)
    (work / "checkpoints" / "step_000002").rmdir()
    assert unfinished.problem(work, config(tmp_path, steps=6)) is None


def test_a_run_that_has_published_is_over(tmp_path: Path) -> None:
    work = interrupted(tmp_path)
    published(config(tmp_path))
    assert unfinished.problem(work, config(tmp_path, steps=6)) is None


def test_an_older_artifact_does_not_make_the_newer_run_finished(tmp_path: Path) -> None:
    work = interrupted(tmp_path)
    published(config(tmp_path, steps=1))
    assert "differs in steps" in str(unfinished.problem(work, config(tmp_path, steps=6)))


def test_what_a_training_job_bears_makes_no_other_run(tmp_path: Path) -> None:
    """One that lost too many workers, or met a loss that is not finite, goes on when more of that is borne."""
    more, mine = sft(tmp_path, **MORE), sft(tmp_path)
    assert more.identity() == mine.identity() != sft(tmp_path, max_steps=9).identity()
    assert list(unfinished.differences(more.model_dump(mode="json"), mine.model_dump(mode="json"))) == []


@pytest.mark.parametrize("change", [{"gradient_checkpointing": True}, {"micro_batch_size": 1}])
def test_portions_of_a_training_job_belong_to_it(tmp_path: Path, change: dict[str, object]) -> None:
    """PPO's do not: there they may change."""
    ((key, _),) = change.items()
    found = unfinished.differences(sft(tmp_path, **change).identity(), sft(tmp_path).identity())
    assert list(found) == [f"training.{key}"]


def test_a_training_job_that_has_published_is_over(tmp_path: Path) -> None:
    """Whatever it bore."""
    mine, work = sft(tmp_path, **MORE), tmp_path / "sft.work"
    (work / "ray_train" / "0123.0000" / "checkpoint_7").mkdir(parents=True)
    (work / "config.yaml").write_text(dump(mine))
    assert "differs in training.max_steps" in str(unfinished.problem(work, sft(tmp_path, max_steps=9)))
    with artifacts.publishing(mine.output, "sft", artifacts.digest(mine.identity()), {}) as draft:
        (draft.path / "weights").write_text("1")
    assert unfinished.problem(work, sft(tmp_path, max_steps=9)) is None


MORE = {"max_failures": 9, "deadline_s": 60.0, "not_finite": {"kind": "skip", "in_a_row": 9}}


def sft(root: Path, **training: object) -> SftConfig:
    needed = {"model": "somewhere", "train": ["train.jsonl"], "validation": ["validation.jsonl"]}
    return validate(SftConfig, {"output": str(root / "sft"), **needed, "training": training})
