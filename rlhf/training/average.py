"""An exponential moving average of weights, kept by every rank for the part that it holds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn


class WeightAverage:
    """w̄ ← decay · w̄ + (1 − decay) · w after every optimizer step, in float32.

    Source: InstructGPT, arXiv:2203.02155, appendix C. Under ZeRO-3 a rank holds and averages its share of each weight;
    else every rank has them whole, and the averages are equal on all. Weights that are not trained are not kept.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self._values = {name: _held(p).float().clone() for name, p in self._parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights after an optimizer step in."""
        for name, parameter in self._parameters.items():
            self._values[name].lerp_(_held(parameter).float(), 1.0 - self.decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The module holds the average inside the block, and its own weights again after it."""
        own = {name: _held(parameter).clone() for name, parameter in self._parameters.items()}
        self._fill(self._values.items())
        try:
            yield
        finally:
            self._fill(own.items())

    @torch.no_grad()
    def _fill(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        for name, weight in weights:
            _held(self._parameters[name]).copy_(weight)
        _make_whole_anew(self._parameters.values())

    def save(self, directory: Path, rank: int) -> None:
        """Write this rank's part below `directory`."""
        from safetensors.torch import save_file

        save_file({name: value.cpu() for name, value in self._values.items()}, str(_file(directory, rank)))

    def load(self, directory: Path, rank: int) -> None:
        """Take what `save` wrote, with whatever number of ranks."""
        from safetensors.torch import load_file

        saved = [load_file(str(path)) for path in sorted(directory.glob(_file(directory, "*").name), key=_rank)]
        for name, value in self._values.items():
            parts = [part[name] for part in saved]
            value.copy_(_share(self._parameters[name], parts, rank, value.shape))


def _share(parameter: nn.Parameter, parts: list[Tensor], rank: int, shape: torch.Size) -> Tensor:
    """What this rank holds of an average that was saved in parts: whole ones are all alike, shares are cut anew."""
    if not hasattr(parameter, "ds_tensor"):
        return parts[0]
    whole = torch.cat([part.flatten() for part in parts])[: parameter.ds_numel]
    start = rank * shape.numel()
    mine = whole[start : start + shape.numel()]
    return torch.nn.functional.pad(mine, (0, shape.numel() - len(mine))).view(shape)


def _held(parameter: nn.Parameter) -> Tensor:
    """What this rank holds of a parameter: its share under ZeRO-3, else all of it."""
    return getattr(parameter, "ds_tensor", parameter).detach()


def _make_whole_anew(parameters: Iterable[nn.Parameter]) -> None:
    """Under ZeRO-3 DeepSpeed keeps small parameters whole on every rank beside the shares; these take the shares'
    values. A collective: all ranks call it."""
    whole = [p for p in parameters if hasattr(p, "ds_tensor") and p.ds_status.name == "AVAILABLE"]
    if whole:
        whole[0].partition(whole)
        whole[0].all_gather(whole)


def _file(directory: Path, rank: int | str) -> Path:
    return directory / f"average_rank{rank}.safetensors"


def _rank(path: Path) -> int:
    return int(path.stem.removeprefix("average_rank"))
