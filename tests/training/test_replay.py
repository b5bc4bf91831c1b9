"""`rlhf replay`: where the first number that is not finite comes from, of what learners have really saved."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rlhf.cli import main
from rlhf.config import merge
from rlhf.errors import ConfigError
from rlhf.ownership import write_config
from rlhf.ppo.config import PPOConfig
from rlhf.training import snapshot
from rlhf.training.jobs import Kind
from rlhf.training.replay import read_saved, replay
from rlhf.training.replay_stage import metadata_of
from rlhf.training.shares import seal_share
from tests.training.ranks import Case, batch_of, config_of
from tests.training.trainers import LENGTH, job_of

SPOILT = 0  # the row of `batch_of` whose advantages are NaN


def saved(work: Path, config: PPOConfig, tensors: dict[str, torch.Tensor], name: str) -> Path:
    """As a run leaves it below its work directory."""
    write_config(work, config)
    (work / "failures").mkdir()
    save_file(tensors, str(work / "failures" / name))
    return work / "failures" / name


def said(batch: Path) -> dict[str, str]:
    """The lines, by their first word."""
    return {line.partition(":")[0]: line.partition(": ")[2] for line in list(replay(batch))[1:]}


@pytest.fixture
def config(tiny_models: Any, tmp_path: Path) -> PPOConfig:
    return config_of(Case(batch="even"), tiny_models, tmp_path / "ppo")


@pytest.mark.parametrize("role", ["policy", "critic"])
def test_numbers_of_the_batch_are_named_with_their_rows(config: PPOConfig, tmp_path: Path, role: str) -> None:
    _, spoilt = batch_of(Case(batch="even"), 250, spoilt=True)
    path = saved(tmp_path / "ppo.work", config, vars(spoilt), f"step_000003_{role}_5_rank0.safetensors")
    told = said(path)
    assert told["forward"] == "all finite" and told["loss"] == "nan"
    assert re.fullmatch(r"(\d+) of \1 parameters not finite, .* the last of them", told["gradient"])
    assert told["weights"] == "those that the run began with; it has no sound checkpoint from before step 3"
    lines = list(replay(path))
    assert lines[0] == f"step 3, role {role}: 6 rows, {path.name}"
    assert lines[1:3] == [f"batch: {name} not finite in row {SPOILT}" for name in ("advantages", "returns")]


def test_a_module_of_the_model_is_named(config: PPOConfig, tiny_models: Any, tmp_path: Path) -> None:
    from rlhf.models.loading import load_causal_lm

    spoilt = Path(shutil.copytree(tiny_models.tied, tmp_path / "spoilt"))
    model = load_causal_lm(spoilt, torch.float32)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("inf")
    model.save_pretrained(spoilt)
    changed = PPOConfig.model_validate(merge(config.model_dump(), {"policy": {"model": str(spoilt)}}))
    _, batch = batch_of(Case(batch="even"), 250)
    told = said(saved(tmp_path / "ppo.work", changed, vars(batch), "step_000001_policy_1_rank0.safetensors"))
    assert told["batch"] == "all finite"
    named = "the first output that is not finite is that of body.layers.1.mlp.up_proj, in rows 0, 1, 2, 3, 4, 5"
    assert told["forward"] == named


def test_what_a_role_answered_for_a_rollout_is_listed(config: PPOConfig, tmp_path: Path, capsys: Any) -> None:
    rollout, _ = batch_of(Case(batch="even"), 250)
    tensors = {name: value for name, value in vars(rollout).items() if isinstance(value, torch.Tensor)}
    scores = torch.tensor([0.0, float("nan"), 1.0, float("inf"), 2.0, 3.0])
    path = saved(
        tmp_path / "ppo.work", config, {**tensors, "scores": scores}, "step_000002_reward.style.safetensors"
    )
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(path)])
    assert not ended.value.code
    assert capsys.readouterr().out.splitlines() == [
        f"step 2, role reward.style: 6 rows, {path.name}", "batch: scores not finite in rows 1, 3",
    ]


def test_what_is_no_such_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    remedy = "give one of failures/\\*.safetensors of a PPO run, or a bad_batch_\\*.safetensors of another stage"
    with pytest.raises(ConfigError, match=rf"model.safetensors: not the name of a saved batch; {remedy}"):
        read_saved(tmp_path / "model.safetensors")
    path = tmp_path / "step_000002_policy_1_rank0.safetensors"
    with pytest.raises(ConfigError, match=rf"cannot be read \(.*\); {remedy}"):
        read_saved(path)
    path.write_bytes(b"no batch")
    with pytest.raises(ConfigError, match=rf"cannot be read \(.*\); {remedy}"):
        read_saved(path)
    tokens, inside = torch.ones(2, 3, dtype=torch.int64), torch.ones(2, 3, dtype=torch.bool)
    for tensors in (
        {"weight": torch.zeros(1)}, {"tokens": tokens}, {"tokens": tokens[0], "response_mask": inside[0]},
        {"tokens": tokens, "response_mask": inside.float()}, {"tokens": tokens[:0], "response_mask": inside[:0]},
    ):
        save_file(tensors, str(path))
        with pytest.raises(ConfigError, match=rf"holds no batch; {remedy}"):
            read_saved(path)


def test_a_batch_of_another_version_is_refused_in_a_sentence(config: PPOConfig, tmp_path: Path) -> None:
    _, batch = batch_of(Case(batch="even"), 250)
    tensors = {name: value for name, value in vars(replace(batch)).items() if name != "weights"}
    path = saved(tmp_path / "ppo.work", config, tensors, "step_000002_policy_1_rank0.safetensors")
    with pytest.raises(Exception, match="holds no experience of this version"):
        list(replay(path))


class OfAStage:
    """What a worker of SFT or the reward model has saved, in a directory as Ray Train leaves it."""

    def __init__(self, work: Path, kind: Kind, model: Path) -> None:
        self.job = job_of(work, model, 1, "float32", kind)
        self.job = replace(self.job, attempt=work / "ray_train" / "0123.0001")

    def bad_batch(self, **changes: torch.Tensor) -> Path:
        ids = torch.arange(4 * LENGTH).reshape(4, LENGTH) + 3
        labels = {} if self.job.kind == "reward" else {"labels": ids.clone()}
        path = self.job.work / "bad_batch_step5_worker1.safetensors"
        save_file({"input_ids": ids, **labels, **changes}, str(path), metadata_of(self.job))
        return path

    def checkpoint(self, step: int, model: Any) -> Path:
        """One that is listed and sealed."""
        directory = self.job.attempt / f"checkpoint_{step}"
        model.save_pretrained(directory)
        seal_share(directory, 0, 1)
        entry = {"checkpoint_dir_name": directory.name, "metrics": {"step": step}}
        content = {"checkpoint_results": [entry], "checkpoint_report_indices": [0]}
        (self.job.attempt / snapshot.NAME).write_text(json.dumps(content))
        return directory


def test_rows_without_labels_are_named(tiny_models: Any, tmp_path: Path) -> None:
    """Their mean is 0 / 0. Without a checkpoint the weights are those of the beginning."""
    path = OfAStage(tmp_path, "sft", tiny_models.tied).bad_batch(labels=torch.full((4, LENGTH), -100))
    assert next(replay(path)) == f"step 5, worker 1 of sft: 4 rows, {path.name}"
    told = said(path)
    assert told["batch"] == f"token ids 3 to {4 * LENGTH + 2}" and told["labels"] == "none in rows 0, 1, 2, 3"
    assert told["weights"] == "those that the run began with; it has no sound checkpoint from before step 5"
    assert told["forward"] == "all finite" and told["loss"] == "nan"


@pytest.mark.parametrize("kind", ["pretrain", "reward"])
def test_the_weights_of_a_stage_are_those_of_its_newest_sound_checkpoint(
    tiny_models: Any, tmp_path: Path, kind: Kind, capsys: Any
) -> None:
    from rlhf.models.loading import load_causal_lm, load_reward_model

    model = (load_reward_model if kind == "reward" else load_causal_lm)(
        tiny_models.reward if kind == "reward" else tiny_models.tied, torch.float32
    )
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = float("inf")
    stage = OfAStage(tmp_path, kind, tiny_models.tied)
    directory = stage.checkpoint(3, model)
    path = stage.bad_batch()
    with pytest.raises(SystemExit) as ended:
        main(["replay", str(path)])
    assert not ended.value.code
    out = capsys.readouterr().out
    assert "weights: checkpoint_3, 1 steps older than those that failed" in out
    named = "the first output that is not finite is that of model.layers.1.mlp.up_proj, in rows 0, 1, 2, 3"
    assert f"forward: {named}" in out
    (directory / "model.safetensors").write_bytes(b"torn")
    told = said(path)
    assert told["weights"].startswith("those that the run began with") and told["forward"] == "all finite"
    assert told["gradient"] == "all finite" and float(told["loss"]) > 0


def test_a_batch_of_a_stage_that_says_nothing_of_its_job_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad_batch_step5_worker1.safetensors"
    with pytest.raises(ConfigError, match=r"cannot be read \(.*\); give a bad_batch_\*.safetensors of pretraining"):
        list(replay(path))
    known = {"kind": "sft", "model": "m", "tokenizer": "t", "seed": 1, "precision": "float32", "key": "0123"}
    odd = ({"model": 5}, {"model": {"layers": 1, "depth": 2}}, {"precision": "float8"}, {"kind": "ppo"})
    for metadata in (
        None, {"about": "{"}, {"about": "[]"}, {"about": '{"kind": "sft"}'},
        *({"about": json.dumps(known | changed)} for changed in odd),
    ):
        save_file({"input_ids": torch.zeros(1, 1)}, str(path), metadata)
        with pytest.raises(ConfigError, match="does not say which job it is of; give a bad_batch_"):
            list(replay(path))


@pytest.mark.parametrize("odd", [
    {"input_ids": torch.ones(0, LENGTH, dtype=torch.int64), "labels": torch.ones(0, LENGTH, dtype=torch.int64)},
    {"labels": torch.ones(LENGTH, dtype=torch.int64)}, {"labels": torch.ones(4, LENGTH)},
    {"pixels": torch.ones(4, LENGTH)},
    {"input_ids": -torch.ones(4, LENGTH, dtype=torch.int64)},
], ids=["no rows", "shape", "type", "name", "negative"])
def test_what_no_trainer_has_made_is_refused(tiny_models: Any, tmp_path: Path, odd: dict[str, torch.Tensor]) -> None:
    path = OfAStage(tmp_path, "sft", tiny_models.tied).bad_batch(**odd)
    with pytest.raises(ConfigError, match="holds no batch of sft; give a bad_batch_"):
        list(replay(path))


def test_tokens_that_the_model_does_not_know_are_refused(tiny_models: Any, tmp_path: Path) -> None:
    stage = OfAStage(tmp_path, "sft", tiny_models.tied)
    with pytest.raises(ConfigError, match="its token ids go beyond the model's "):
        list(replay(stage.bad_batch(input_ids=torch.full((4, LENGTH), 99_999))))
