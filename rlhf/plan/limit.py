"""The physical limit of one iteration: bytes over bandwidth, FLOP over FLOP/s. Nothing here is fitted.

Every function takes plain numbers and returns seconds. `tests/plan/test_limit.py` reproduces a table of published
iteration times with them; docs/planning.md has the comparison.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlhf.plan.hardware import Gpu

BFLOAT16 = 2


@dataclass(frozen=True)
class Costs:
    """What a token of a model costs. `matmuls`: parameters that it is multiplied with, of a mixture of experts the
    active ones; `weights`: bytes of all of them; `kv`: bytes of its keys and values; `attention`: FLOP per token and
    token of length, causal."""

    matmuls: float
    weights: float
    kv: float
    attention: float

    def forward(self, length: float) -> float:
        """FLOP of a forward pass per token in rows of `length` tokens."""
        return 2.0 * self.matmuls + self.attention * length


@dataclass(frozen=True)
class Work:
    """One iteration: sequences, mean tokens of prompt and response, and of the longest response."""

    sequences: float
    prompt: float
    response: float
    longest: float

    @property
    def row(self) -> float:
        return self.prompt + self.response

    @property
    def tokens(self) -> float:
        return self.sequences * self.row


def decode(model: Costs, work: Work, gpu: Gpu, gpus: float, tensor_parallel: int, at_once: float = math.inf) -> float:
    """Sampling every response on engines of `tensor_parallel` GPUs.

    Each step reads all weights and the KV cache of the sequences that run, `at_once` of an engine at most; the
    others wait. However many GPUs there are, the longest response takes one step per token.
    """
    engines = gpus / tensor_parallel
    batch = work.sequences / engines
    running = min(batch, at_once)
    waves = batch / running
    cached = running * model.kv * (work.prompt + work.response / 2)
    memory = (model.weights + cached) / (tensor_parallel * gpu.bandwidth)
    compute = running * model.forward(work.row / 2) / (tensor_parallel * gpu.flops)
    tail = work.longest * BFLOAT16 * model.matmuls / (tensor_parallel * gpu.bandwidth)
    return max(work.response * max(memory, compute) * waves, tail)


def prefill(model: Costs, work: Work, gpu: Gpu, gpus: float) -> float:
    """Reading every prompt."""
    return work.sequences * work.prompt * model.forward(work.prompt) / (gpus * gpu.flops)


def score(model: Costs, work: Work, gpu: Gpu, gpus: float) -> float:
    """One forward pass over all rows."""
    return work.tokens * model.forward(work.row) / (gpus * gpu.flops)


def train(model: Costs, work: Work, gpu: Gpu, gpus: float, recompute: bool = False, frozen: bool = False) -> float:
    """Forward and backward over all rows: three forward passes' worth, four with recomputation. Of a `frozen` model
    with adapters no weight needs a gradient: two, and three."""
    passes = (2 if frozen else 3) + (1 if recompute else 0)
    return passes * score(model, work, gpu, gpus)


def transfer(size: float, bandwidth: float) -> float:
    """Moving bytes."""
    return size / bandwidth
