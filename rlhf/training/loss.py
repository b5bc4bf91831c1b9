"""What a micro-batch contributes to an optimizer step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from rlhf.metrics import Metrics


@dataclass(frozen=True)
class Loss:
    """A micro-batch's part of the loss of an optimizer step, with its diagnostics. The parts add up to the loss."""

    total: Tensor
    metrics: Metrics
