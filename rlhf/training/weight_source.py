"""The policy's weights as a weight transfer takes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from rlhf.sampling.weight_transfer import WeightInfo
from rlhf.training.deepspeed_engine import DeepSpeedEngine
from rlhf.training.weights import named_weights, weight_names


class PolicyWeights:
    """Every weight under its transformers names, a tied one under each. Iterating is a collective under ZeRO-3."""

    def __init__(self, engine: DeepSpeedEngine, model: Any) -> None:
        self.engine = engine
        self.model = model

    def metadata(self) -> list[WeightInfo]:
        """Name, dtype and whole shape of what iteration yields, in its order; nothing is gathered for it."""
        parameters = dict(self.engine.module.named_parameters())
        return [
            WeightInfo(each, parameters[name].dtype, _whole_shape(parameters[name]))
            for name, known in weight_names(self.engine, self.model).items()
            for each in known
        ]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """(name, tensor); a tensor stays valid: senders keep several until a bucket of them is full."""
        gathered = self.engine.config.zero.stage == 3
        for name, tensor in named_weights(self.engine, self.model):
            yield name, tensor.clone() if gathered else tensor


def _whole_shape(parameter: nn.Parameter) -> tuple[int, ...]:
    """ZeRO-3 leaves an empty parameter behind and notes the shape that it had."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))
