"""What a forward and backward pass keeps, in bytes, for one micro-batch on one device.

Counted from the operations of transformers' Qwen2 and Llama with fused attention (no [T, T] matrix): what autograd
saves for the backward pass. `tests/plan/test_activations.py` compares the formula with the tensors that torch keeps.
"""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.plan.architecture import Architecture

# Logits alive at once in `rlhf.objectives.logprobs`, in elements; importing it here would load torch.
CHUNK_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class Pass:
    """A micro-batch: its padded tokens, and the bytes of a number of the model (2 or 4)."""

    tokens: int
    width: int


def layer_bytes(model: Architecture, width: int) -> int:
    """Kept per token by one decoder layer.

    Two RMS norms, each with its input, the normalised input and its output (in bfloat16 the first two are float32
    and the residual itself is not kept), query, key, value, the attention's output, and four of the feed-forward
    width: gate, its activation, up, and their product.
    """
    norms = 2 * (12 if width == 4 else 8) * model.hidden
    attention = width * (2 * model.query + 2 * model.key) + 4 * model.heads
    return norms + attention + width * 4 * model.intermediate + 8


def kept(model: Architecture, work: Pass, checkpointing: bool) -> int:
    """Kept from the forward to the backward pass. Checkpointing keeps every layer's input, and one layer whole."""
    layer = layer_bytes(model, work.width)
    last_norm = (8 if work.width == 4 else 6) * model.hidden
    whole = layer if checkpointing else model.layers * layer
    inputs = model.layers * work.width * model.hidden if checkpointing else 0
    return work.tokens * (whole + inputs + last_norm)


def forward(model: Architecture, work: Pass) -> int:
    """Alive at the widest point of a pass without gradients: the feed-forward layer."""
    return work.tokens * work.width * (3 * model.intermediate + 4 * model.hidden)


def backward(model: Architecture, work: Pass) -> int:
    """Gradients of activations that are alive at the widest point of the backward pass of a layer."""
    return work.tokens * work.width * (3 * model.intermediate + 3 * model.hidden)


def chunked_head(model: Architecture, work: Pass) -> int:
    """Logits of one chunk in every form in which they are alive at once: as multiplied, in float32, their
    log-probabilities, and the probabilities times those (docs/benchmark.md has it measured)."""
    rows = min(work.tokens, max(1, CHUNK_ELEMENTS // model.vocab))
    return rows * model.vocab * (work.width % 4 + 3 * 4)


def head_gradient(model: Architecture, width: int) -> int:
    """Gradient of the output embedding while the chunks add up: a float32 sum, and a chunk's share, which in bfloat16
    is there in both precisions."""
    return model.embedding * (4 + (4 if width == 4 else 6))


def whole_logits(model: Architecture, tokens: int, width: int, with_gradient: bool = True) -> int:
    """Logits of all tokens at once, as transformers' own loss makes them: as multiplied, in float32, and their
    log-probabilities; and the gradients of both precisions."""
    forward = width % 4 + 4 + 4
    return tokens * model.vocab * (forward + (4 + width % 4 if with_gradient else 0))
