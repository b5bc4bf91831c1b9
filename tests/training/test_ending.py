"""When a job that is asked to end does so, and how a checkpoint says that its job was over."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from rlhf.config import validate
from rlhf.training.config import TrainingConfig
from rlhf.training.ending import EndOnRequest, is_over
from rlhf.training.jobs import TrainJob


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    found = TrainJob("sft", "model", "tokenizer", tmp_path, validate(TrainingConfig, {}), 60, 1, attempt=tmp_path)
    found.end_requested.touch()
    return found


def test_a_step_after_which_it_ends_anyway_is_not_saved_on_request(job: TrainJob, tmp_path: Path) -> None:
    """The last one, which is saved in any case; or one that failed, of which nothing is to be kept."""
    asked, control = EndOnRequest(job), TrainerControl(should_training_stop=True)
    arguments, state = TrainingArguments(str(tmp_path / "out"), use_cpu=True), TrainerState(global_step=7)
    asked.on_step_end(arguments, state, control)
    assert not control.should_save
    asked.on_save(arguments, state, control)
    assert not job.ended_at.exists()


def test_a_restart_has_not_ended(job: TrainJob, tmp_path: Path) -> None:
    job.ended_at.write_text("6")
    EndOnRequest(job).on_train_begin(
        TrainingArguments(str(tmp_path / "out"), use_cpu=True), TrainerState(), TrainerControl()
    )
    assert not job.ended_at.exists()


@pytest.mark.parametrize("over", [True, False])
def test_a_checkpoint_says_whether_its_job_was_over(tmp_path: Path, over: bool) -> None:
    """In the words of transformers' own state."""
    control = TrainerControl(should_training_stop=over, should_save=True)
    TrainerState(global_step=7, stateful_callbacks=[control]).save_to_json(str(tmp_path / "trainer_state.json"))
    assert json.loads((tmp_path / "trainer_state.json").read_text())["global_step"] == 7
    assert is_over(tmp_path) is over
