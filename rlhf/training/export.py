"""A checkpoint's policy as a plain transformers directory, without Ray and without the ranks that wrote it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from rlhf.artifacts import sync, sync_tree
from rlhf.errors import RunError
from rlhf.models.loading import load_tokenizer
from rlhf.ppo.config import PPOConfig
from rlhf.training.trained_role import in_silence, trained_role
from rlhf.training.weights import export_model


@dataclass(frozen=True)
class WholeModule:
    """A module whose weights all lie here."""

    module: nn.Module

    @contextmanager
    def whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        yield


def export_checkpoint(config: PPOConfig, checkpoint: Path, target: Path) -> None:
    """Write policy (adapters merged) and tokenizer of a checkpoint to `target`, which must not exist.

    Raises RunError for a checkpoint that is not as it was written, or is deleted meanwhile by its run; nothing of it
    is unpickled then.
    """
    if target.exists():
        raise RunError(f"{target}: exists; give a directory that does not")
    with in_silence():
        _export(config, checkpoint, target)


def _export(config: PPOConfig, checkpoint: Path, target: Path) -> None:
    module, model = trained_role("policy", config, checkpoint)
    draft = target.with_name(f".{target.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    export_model(WholeModule(module), model, draft, write=True)
    load_tokenizer(config.policy.model).save_pretrained(draft)
    sync_tree(draft)
    draft.rename(target)
    sync(target.parent)
