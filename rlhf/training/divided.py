"""Models that do not train, with their weights divided over the ranks of a role (ZeRO-3 without an optimizer).

Each rank holds a share; a layer's weights are gathered for its forward pass and let go of after it, so all ranks have
to run equally many passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from rlhf.device import Precision, has_gpu


@contextmanager
def dividing(precision: Precision) -> Iterator[None]:
    """Inside the block transformers divides the weights over the ranks, which have met, while it reads them."""
    from transformers.integrations import HfDeepSpeedConfig

    keep = HfDeepSpeedConfig(_config(precision))  # in force while it lives
    try:
        yield
    finally:
        del keep


def divided(module: nn.Module, precision: Precision) -> Any:
    """What computes with a module that was loaded while dividing; all ranks call it equally often."""
    import deepspeed

    engine, *_ = deepspeed.initialize(model=module, config=_config(precision))
    engine.eval()
    return engine


def _config(precision: Precision) -> dict[str, Any]:
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3, "overlap_comm": has_gpu(), "contiguous_gradients": True},
        "bf16": {"enabled": precision == "bfloat16"},
        "steps_per_print": 1_000_000_000,
    }
