"""Reads a learner's weights back under their transformers names, adapters merged."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from rlhf.training.lora import adapted_layer, is_adapter, merged, plain_name


class HoldsWeights(Protocol):
    """A module, of whose weights a process may hold only a share."""

    @property
    def module(self) -> nn.Module: ...

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
        """Inside the block these parameters are whole on every rank."""


def weight_names(engine: HoldsWeights, model: Any) -> dict[str, list[str]]:
    """Every weight of the trained module → its transformers names; a tied one has several. Adapters are no weights."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(plain_name(name))
    return {
        name: names[id(parameter)] for name, parameter in engine.module.named_parameters() if not is_adapter(name)
    }


def named_weights(engine: HoldsWeights, model: Any) -> Iterator[tuple[str, Tensor]]:
    """(transformers name, whole tensor) of every weight, adapters merged; a tied one comes under each of its names.

    A sampler that is not sent `lm_head.weight` of a tied model keeps the old one without a word. All ranks
    iterate (a collective under ZeRO-3); a tensor is valid until the next is asked for.
    """
    module, parameters = engine.module, dict(engine.module.named_parameters())
    for name, known in weight_names(engine, model).items():
        layer = adapted_layer(module, name)
        needed = [parameters[name]] if layer is None else list(layer.parameters())
        with engine.whole(needed):
            tensor = parameters[name].detach() if layer is None else merged(layer)
            for each in known:
                yield each, tensor


def adapter_weights(engine: HoldsWeights, model: Any) -> dict[str, Tensor]:
    """The adapters' own tensors, whole, in host memory, by their names in the transformers model. All ranks call it."""
    found = {}
    for name, parameter in model.named_parameters():
        if is_adapter(name):
            with engine.whole([parameter]):
                found[name] = parameter.detach().to("cpu", copy=True)
    return found


def export_model(engine: HoldsWeights, model: Any, directory: Path, write: bool) -> None:
    """Write safetensors and config below `directory`; every rank takes part, one writes."""
    state = {}
    for name, tensor in named_weights(engine, model):
        if write:
            state[name] = tensor.to("cpu", copy=True)
    if write:
        if model.config.tie_word_embeddings:
            state.pop("lm_head.weight", None)
        model.save_pretrained(directory, state_dict=state)
