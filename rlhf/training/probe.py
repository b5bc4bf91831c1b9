"""Where numbers that are not finite begin: in which module's output, in the loss, or in which gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

_SHOWN = 8  # rows that are listed


def probed(module: nn.Module, attended: Tensor, loss: Callable[[], Tensor]) -> Iterator[str]:
    """Lines on the forward pass, the loss that `loss` computes by it, and the backward pass; each says what of it is
    not finite. `attended` [B, T] bool: the tokens that count."""
    with _first_output(module, attended) as found:
        total = loss()
    yield f"forward: {found[0]}" if found else "forward: all finite"
    yield f"loss: {float(total.detach()):.6g}"
    total.backward()
    named = [(name, p.grad) for name, p in module.named_parameters() if p.grad is not None]
    bad = [name for name, gradient in named if not bool(torch.isfinite(gradient).all())]
    yield (
        f"gradient: {len(bad)} of {len(named)} parameters not finite, {bad[-1]} the last of them" if bad
        else "gradient: all finite"
    )


def rows_said(rows: list[int]) -> str:
    """The first of them by number."""
    more = f" and {len(rows) - _SHOWN} more" if len(rows) > _SHOWN else ""
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows[:_SHOWN]))}{more}"


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
    return f", in {rows_said((bad & attended).any(dim=1).nonzero().flatten().tolist())}"
