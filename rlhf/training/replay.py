"""`rlhf replay`: a batch that ended a step, because something in it was not finite, computed again in one process.

It says where the first number that is not finite comes from: out of the batch, out of a module of the model, out of
the loss, or out of the gradient of a parameter.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

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
from rlhf.training.seal import contents, damage, foreign
from rlhf.training.trained_role import in_silence, trained_role

_NAME = re.compile(r"step_(?P<step>\d+)_(?P<role>.+?)(_(?P<number>\d+)_rank(?P<rank>\d+))?\.safetensors")
_SHOWN = 8  # rows that are listed


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
        raise ConfigError(f"{path}: not the name of a saved batch; give one of failures/*.safetensors of a run")
    try:
        tensors = load_file(str(path))
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: cannot be read ({error}); give one of failures/*.safetensors of a run") from None
    if "tokens" not in tensors or "response_mask" not in tensors:
        raise ConfigError(f"{path}: holds no batch; give one of failures/*.safetensors of a run")
    number = None if found["number"] is None else int(found["number"])
    return Saved(path, int(found["step"]), found["role"], number, tensors)


def _in_the_batch(tensors: Mapping[str, Tensor]) -> Iterator[str]:
    inside = tensors["response_mask"]
    bad = {name: rows for name, value in tensors.items() if (rows := _bad_rows(value, inside))}
    for name, rows in bad.items():
        yield f"batch: {name} not finite in {_rows(rows)}"
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


def _rows(rows: list[int]) -> str:
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more}"


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
    yield from _through(module.to(current()).train(), objective, _experience(saved), config.longest_response)


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


def _through(module: nn.Module, objective: Objective, batch: Experience, max_new_tokens: int) -> Iterator[str]:
    """Forward, loss and backward; each says what of it is not finite."""
    with _first_output(module, batch.attention_mask) as found:
        output = module(batch.tokens, batch.response_mask)
    yield f"forward: {found[0]}" if found else "forward: all finite"
    loss = objective.loss(output, batch, step_totals(batch.response_mask.sum(dim=1), max_new_tokens))
    yield f"loss: {float(loss.total.detach()):.6g}"
    loss.total.backward()
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in named if not bool(torch.isfinite(gradient).all())]
    yield (
        f"gradient: {len(bad)} of {len(named)} parameters not finite, {bad[-1]} the last of them" if bad
        else "gradient: all finite"
    )


@contextmanager
def _first_output(module: nn.Module, attended: Tensor) -> Iterator[list[str]]:
    """Inside the block, the list takes what is said of the first module whose output is not finite."""
    found: list[str] = []

    def hook(name: str) -> Any:
        def look(_: nn.Module, __: Any, output: Any) -> None:
            if found:
                return
            for value in output if isinstance(output, tuple) else (output,):
                if isinstance(value, Tensor) and _is_bad(value, attended):
                    found.append(f"the first output that is not finite is that of {name}{_of_rows(value, attended)}")
                    return

        return look

    hooks = [each.register_forward_hook(hook(name)) for name, each in module.named_modules() if name]
    try:
        yield found
    finally:
        for each in hooks:
            each.remove()


def _is_bad(value: Tensor, attended: Tensor) -> bool:
    if not value.is_floating_point():
        return False
    real = value[attended] if value.shape[:2] == attended.shape else value
    return not bool(torch.isfinite(real).all())


def _of_rows(value: Tensor, attended: Tensor) -> str:
    if value.shape[:2] != attended.shape:
        return ""
    bad = (~torch.isfinite(value)).flatten(2).any(dim=2) if value.dim() > 2 else ~torch.isfinite(value)
    return f", in {_rows((bad & attended).any(dim=1).nonzero().flatten().tolist())}"
