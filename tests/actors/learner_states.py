"""Looks into a learner's process: what an optimizer step leaves behind, on a CPU or a GPU."""

from __future__ import annotations

from typing import Any

import ray
import torch


def call(actor: Any, function: Any) -> Any:
    """Run a function in an actor's process, on its object."""
    return ray.get(actor.__ray_call__.remote(function))


def train_once(process: Any) -> list[float]:
    """Runs in a learner's process: one optimizer step on made-up tokens; then `sums_of_states`."""
    tokens = torch.arange(40).reshape(2, 20).to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    engine, response = process.learner.engine, torch.zeros_like(tokens, dtype=torch.bool)
    response[:, 5:] = True
    logprobs, _ = engine(tokens, response)
    engine.backward(-logprobs.mean(), last=True)
    engine.step()
    return sums_of_states(process)


def sums_of_states(process: Any) -> list[float]:
    """Runs in a learner's process, ZeRO stage 2: absolute sums of weights, masters and optimizer states."""
    optimizer = process.learner.engine.optimizer
    weights = [weight.detach() for weight in process.learner.engine.module.parameters()]
    states = [value for state in optimizer.optimizer.state.values() for value in state.values()]
    tensors = [*weights, *optimizer.single_partition_of_fp32_groups, *states]
    return [tensor.detach().double().abs().sum().item() for tensor in tensors]


def precisions(process: Any) -> tuple[set[torch.dtype], set[torch.dtype]]:
    """Runs in a learner's process, ZeRO stage 2: dtypes of the weights in use, and of the masters."""
    optimizer = process.learner.engine.optimizer
    return {p.dtype for p in process.model.parameters()}, {p.dtype for p in optimizer.single_partition_of_fp32_groups}
