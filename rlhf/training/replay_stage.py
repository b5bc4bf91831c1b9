"""The batch that ended a step of pretraining, SFT or the reward model, computed again in one process."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlhf import device
from rlhf.config import Config, validate
from rlhf.device import Precision
from rlhf.errors import ConfigError
from rlhf.models.loading import NewModelConfig, load_causal_lm, load_reward_model, load_tokenizer
from rlhf.training.attempts import attempts, key_of
from rlhf.training.jobs import Kind, TrainJob
from rlhf.training.probe import probed, rows_said
from rlhf.training.shares import damage
from rlhf.training.snapshot import Saved, saved
from rlhf.training.start import initial_model
from rlhf.training.trained_role import in_silence

NAME = re.compile(r"bad_batch_step(?P<step>\d+)_worker(?P<rank>\d+)\.safetensors")
_ABOUT = "about"
_REMEDY = "give a bad_batch_*.safetensors of pretraining, SFT or a reward model"
_OF_TOKENS = {"input_ids", "attention_mask", "position_ids", "labels"}  # what a batch may hold, each [rows, tokens]


class About(Config):
    """The job that a batch is of: what it began with, and by what name it is found in the work directory."""

    kind: Kind
    model: str | NewModelConfig
    tokenizer: str
    seed: int
    precision: Precision
    key: str


def metadata_of(job: TrainJob) -> dict[str, str]:
    """What is saved beside a batch."""
    about = About(
        kind=job.kind, model=job.model, tokenizer=job.tokenizer, seed=job.seed, precision=job.training.precision,
        key=key_of(job.attempt),
    )
    return {_ABOUT: about.model_dump_json()}


def replay_stage(path: Path) -> Iterator[str]:
    """Lines that say where the first number that is not finite comes from.

    Raises ConfigError for what is no such batch, and ModelError where the model that its run began with is not there
    any more.
    """
    about, batch = _read(path)
    name = NAME.fullmatch(path.name)
    assert name is not None
    step, ids = int(name["step"]), batch["input_ids"]
    yield f"step {step}, worker {name['rank']} of {about.kind}: {len(ids)} rows, {path.name}"
    yield from _in_the_batch(batch)
    checkpoint = _before(path.parent / "ray_train", about.key, step)
    if checkpoint is None:
        yield f"weights: those that the run began with; it has no sound checkpoint from before step {step}"
    else:
        taken, directory = checkpoint
        yield f"weights: {directory.name}, {step - 1 - (taken.step or 0)} steps older than those that failed"
    with in_silence():
        model = _model(about, None if checkpoint is None else checkpoint[1])
    if batch["input_ids"].max() >= model.config.vocab_size:
        raise ConfigError(f"{path}: its token ids go beyond the model's {model.config.vocab_size}; {_REMEDY}")
    model = model.to(device.current(), device.dtype(about.precision)).train()
    batch = {key: value.to(device.current()) for key, value in batch.items()}
    attended = batch.get("attention_mask", torch.ones_like(batch["input_ids"])).bool()
    yield from probed(model, attended, lambda: _loss(about.kind, model, batch))


def _read(path: Path) -> tuple[About, dict[str, Tensor]]:
    try:
        with safe_open(str(path), "pt") as content:
            about, batch = content.metadata() or {}, {key: content.get_tensor(key) for key in content.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); {_REMEDY}") from None
    try:
        found = validate(About, json.loads(about.get(_ABOUT, "")))
    except (ValueError, ConfigError):  # none, not JSON, or other fields
        raise ConfigError(f"{path}: does not say which job it is of; {_REMEDY} of this version") from None
    if not _is_batch(found.kind, batch):
        raise ConfigError(f"{path}: holds no batch of {found.kind}; {_REMEDY} of this version")
    return found, batch


def _is_batch(kind: Kind, batch: Mapping[str, Tensor]) -> bool:
    """Whether the Trainer of such a job could have made it."""
    ids = batch.get("input_ids")
    if ids is None or ids.dim() != 2 or not ids.numel() or not batch.keys() <= _OF_TOKENS:
        return False
    if any(value.shape != ids.shape or value.dtype != torch.int64 for value in batch.values()) or ids.min() < 0:
        return False
    return len(ids) % 2 == 0 if kind == "reward" else "labels" in batch


def _in_the_batch(batch: Mapping[str, Tensor]) -> Iterator[str]:
    """A row without a label gives no loss, and a batch of such rows one that is 0 / 0."""
    yield f"batch: token ids {int(batch['input_ids'].min())} to {int(batch['input_ids'].max())}"
    if "labels" in batch:
        empty = (batch["labels"][:, 1:] == -100).all(dim=1).nonzero().flatten().tolist()
        yield f"labels: none in {rows_said(empty)}" if empty else "labels: some in every row"


def _before(storage: Path, key: str, step: int) -> tuple[Saved, Path] | None:
    """The newest sound checkpoint of a job from before a step, and where it lies."""
    found = attempts(storage, key)
    for each in reversed(saved(found[-1]) if found else []):
        directory = found[-1] / each.name
        if (each.step or 0) < step and directory.is_dir() and damage(directory) is None:
            return each, directory
    return None


def _model(about: About, checkpoint: Path | None) -> Any:
    if checkpoint is not None:
        load = load_reward_model if about.kind == "reward" else load_causal_lm
        return load(checkpoint, torch.float32)
    return initial_model(about.kind, about.model, load_tokenizer(about.tokenizer), about.seed)


def _loss(kind: str, model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[]: mean over tokens, or over pairs."""
    output = model(**batch, use_cache=False)
    if kind != "reward":
        return output.loss
    chosen, rejected = output.logits.squeeze(-1).chunk(2)
    return -torch.nn.functional.logsigmoid(chosen - rejected).mean()
