"""`rlhf replay`: a batch that ended a step, because something in it was not finite, computed again in one process.

It says where the first number that is not finite comes from: out of the batch, out of a module of the model, out of
the loss, or out of the gradient of a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rlhf import config as configs
from rlhf.batch import Experience
from rlhf.device import current
from rlhf.errors import ConfigError, DataError
from rlhf.objectives.reduction import step_totals
from rlhf.ownership import CONFIG
from rlhf.ppo.config import PPOConfig
from rlhf.ppo.objectives import CriticObjective, PolicyObjective
from rlhf.training.checkpoint import published, step_of
from rlhf.training.learner import Objective
from rlhf.training.probe import probed, rows_said
from rlhf.training.replay_stage import NAME as OF_A_STAGE
from rlhf.training.replay_stage import replay_stage
from rlhf.training.seal import contents, damage, foreign
from rlhf.training.trained_role import in_silence, trained_role

_NAME = re.compile(r"step_(?P<step>\d+)_(?P<role>.+?)(_(?P<number>\d+)_rank(?P<rank>\d+))?\.safetensors")
_REMEDY = "give one of failures/*.safetensors of a PPO run, or a bad_batch_*.safetensors of another stage"


@dataclass(frozen=True)
class Saved:
    """A file below `failures`: of PPO step `step` (from 1), the `number`-th optimizer step of a trained role, or, with
    None, what a role answered for a rollout."""

    path: Path
    step: int
    role: str
    number: int | None
    tensors: Mapping[str, Tensor]


def replay(path: Path) -> Iterator[str]:
    """Lines that say what is not finite, and where it begins.

    Raises ConfigError for what is no such file, and RunError where its run's config or model is not there any more.
    """
    if OF_A_STAGE.fullmatch(path.name):
        yield from replay_stage(path)
        return
    saved = read_saved(path)
    yield f"step {saved.step}, role {saved.role}: {len(saved.tensors['tokens'])} rows, {path.name}"
    yield from _in_the_batch(saved.tensors)
    if saved.number is not None:
        yield from _computed_again(saved)


def read_saved(path: Path) -> Saved:
    """Raises ConfigError for what is not a file that a run has saved below `failures`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    found = _NAME.fullmatch(path.name)
    if found is None:
        raise ConfigError(f"{path}: not the name of a saved batch; {_REMEDY}")
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); {_REMEDY}") from None
    if not _is_batch(tensors):
        raise ConfigError(f"{path}: holds no batch; {_REMEDY}")
    number = None if found["number"] is None else int(found["number"])
    return Saved(path, int(found["step"]), found["role"], number, tensors)


def _is_batch(tensors: Mapping[str, Tensor]) -> bool:
    """Whether there are rows of tokens, and it is known which are responses."""
    tokens, inside = tensors.get("tokens"), tensors.get("response_mask")
    return (
        tokens is not None and tokens.dim() == 2 and tokens.numel() > 0 and tokens.dtype == torch.int64
        and inside is not None and inside.dim() == 2 and inside.dtype == torch.bool and len(inside) == len(tokens)
    )


def _in_the_batch(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    inside = tensors["response_mask"]
    bad = {name: rows for name, value in tensors.items() if (rows := _bad_rows(value, inside))}
    for name, rows in bad.items():
        yield f"batch: {name} not finite in {rows_said(rows)}"
    if not bad:
        yield "batch: all finite"


def _bad_rows(value: Tensor, inside: Tensor | None = None) -> list[int]:
    """Rows of a floating tensor that are not finite; of one number a token, those of the response count."""
    if not value.is_floating_point() or not value.dim():
        return []
    bad = ~torch.isfinite(value)
    if inside is not None and bad.shape == inside.shape:
        bad &= inside
    return bad.flatten(1).any(dim=1).nonzero().flatten().tolist() if bad.dim() > 1 else bad.nonzero().flatten().tolist()


def _computed_again(saved: Saved) -> Iterator[str]:
    work = saved.path.absolute().parent.parent
    config = configs.load(PPOConfig, [str(work / CONFIG)], [])
    checkpoint = _before(work / "checkpoints", saved.step)
    if checkpoint is None:
        yield f"weights: those that the run began with; it has no sound checkpoint from before step {saved.step}"
    else:
        yield f"weights: {checkpoint.name}, {saved.step - 1 - step_of(checkpoint)} steps older than those that failed"
    with in_silence():
        module, _ = trained_role(saved.role, config, checkpoint)
    objective = _objective(saved.role, config)
    if checkpoint is not None and isinstance(objective, PolicyObjective):
        objective.kl_coef = contents(checkpoint)["state"]["kl_coef"]
    module, batch = module.to(current()).train(), _experience(saved)
    totals = step_totals(batch.response_mask.sum(dim=1), config.longest_response)

    def loss() -> Tensor:
        return objective.loss(module(batch.tokens, batch.response_mask), batch, totals).total

    yield from probed(module, batch.attention_mask, loss)


def _before(directory: Path, step: int) -> Path | None:
    """The newest sound checkpoint of a step before this one."""
    for checkpoint in reversed(published(directory)):
        if step_of(checkpoint) < step and damage(checkpoint) is None and foreign(checkpoint) is None:
            return checkpoint
    return None


def _objective(role: str, config: PPOConfig) -> Objective:
    return PolicyObjective(config.ppo, config.kl) if role == "policy" else CriticObjective(config.ppo)


def _experience(saved: Saved) -> Experience:
    try:
        return Experience(**{name: value.to(current()) for name, value in saved.tensors.items()})
    except (TypeError, ValueError) as error:
        raise DataError(f"{saved.path}: holds no experience of this version ({error})") from None
