"""What a training stage publishes: the best model with its tokenizer, the curve, and its results."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf import artifacts
from rlhf.artifacts import Artifact
from rlhf.context import RunContext
from rlhf.training import since_logged, snapshot
from rlhf.training.ray_train import Trained
from rlhf.training.shares import SHARES

_MODEL_FILES = (".json", ".safetensors", ".jinja", ".txt", ".model")
_NOT_OF_THE_MODEL = ("trainer_state.json", SHARES, since_logged.FILES)
_NAMES = {"validation_perplexity": "perplexity"}


def publish(trained: Trained, facts: Mapping[str, Any], context: RunContext) -> Artifact:
    """Publish the best checkpoint as a transformers directory; `facts` join its results in the manifest."""
    with context.publishing() as draft:
        copy_model(trained.checkpoint, draft.path)
        shutil.copyfile(context.work / "metrics.jsonl", draft.path / "metrics.jsonl")
        draft.metrics |= {**results(trained.metrics), **facts}
    return artifacts.load(context.directory)


def results(numbers: Mapping[str, float]) -> dict[str, Any]:
    """Results of the best step: overall numbers by name, and per language under `NAME_by_language`.

    >>> results({"step": 40, "validation_loss": 1.5, "validation_loss_zh": 2.0})
    {'best_step': 40, 'validation_loss': 1.5, 'validation_loss_by_language': {'zh': 2.0}}
    """
    found: dict[str, Any] = {"best_step": int(numbers["step"])}
    named = ("validation_loss", "validation_perplexity", "validation_accuracy")
    overall = [key for key in named if numbers.get(key, snapshot.WORST) != snapshot.WORST]
    for key in overall:
        name = _NAMES.get(key, key)
        found[name] = numbers[key]
        languages = {other.removeprefix(f"{key}_"): numbers[other] for other in numbers if other.startswith(f"{key}_")}
        if languages:
            found[f"{name}_by_language"] = languages
    return found


def copy_model(checkpoint: Path, target: Path) -> None:
    """Copy model and tokenizer out of a checkpoint, leaving the state of optimizer and trainer behind."""
    for path in sorted(checkpoint.iterdir()):
        if path.suffix in _MODEL_FILES and not any(map(path.match, _NOT_OF_THE_MODEL)):
            shutil.copyfile(path, target / path.name)
