"""Log-probabilities of chosen tokens straight from hidden states, a chunk of the vocabulary projection at a time."""

from __future__ import annotations

import torch
from torch import Tensor

# Logits alive at once, in elements: 64 MiB in float32. What does not fit is recomputed in the backward pass.
CHUNK_ELEMENTS = 1 << 24


class _TokenLogprobs(torch.autograd.Function):
    """log-softmax(h Wᵀ / τ) at the targets, and its entropy, without N × V logits in memory."""

    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, rows: int):
        logprobs = hidden.new_empty(hidden.shape[0], dtype=torch.float32)
        entropy = torch.empty_like(logprobs)
        kept = None
        for start in range(0, hidden.shape[0], rows):
            part = slice(start, start + rows)
            log_p = _log_softmax(hidden[part], weight, temperature)
            logprobs[part] = log_p.gather(1, targets[part, None]).squeeze(1)
            entropy[part] = -_sum_p_log_p(log_p)
            kept = log_p if hidden.shape[0] <= rows else None
        ctx.save_for_backward(hidden, weight, targets, entropy, kept)
        ctx.temperature, ctx.rows = temperature, rows
        return logprobs, entropy

    @staticmethod
    def backward(ctx, grad_logprobs: Tensor, grad_entropy: Tensor):
        hidden, weight, _, _, kept = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        bonus = grad_entropy if bool(grad_entropy.any()) else None
        for start in range(0, hidden.shape[0], ctx.rows):
            part = slice(start, start + ctx.rows)
            # What a part needs dies with the call, before the next part's logits are made.
            _backward_part(ctx, kept, part, grad_logprobs, bonus, grad_hidden, grad_weight)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None, None


def _backward_part(
    ctx, kept: Tensor | None, part: slice, grad_logprobs: Tensor, bonus: Tensor | None, grad_hidden: Tensor,
    grad_weight: Tensor | None,
) -> None:
    """Write one part of the hidden states' gradient, and add its share to the weight's.

    d log p_target / d logits = onehot − p;  d H / d logits = −p (log p + H)
    """
    hidden, weight, targets, entropy, _ = ctx.saved_tensors
    log_p = kept if kept is not None else _log_softmax(hidden[part], weight, ctx.temperature)
    grad_logits = log_p.exp()
    if bonus is None:
        grad_logits *= -grad_logprobs[part, None]
    else:
        grad_logits *= -(grad_logprobs[part, None] + bonus[part, None] * (log_p + entropy[part, None]))
    grad_logits.scatter_add_(1, targets[part, None], grad_logprobs[part, None])
    if ctx.temperature != 1.0:
        grad_logits /= ctx.temperature
    grad_logits = grad_logits.to(weight.dtype)
    grad_hidden[part] = grad_logits @ weight
    if grad_weight is not None:
        grad_weight += (grad_logits.T @ hidden[part]).float()


def token_logprobs(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk_elements: int = CHUNK_ELEMENTS
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and entropy of each distribution, in nats.

    Args: hidden [N, H]; weight [V, H], the output embedding; targets [N] int64; temperature > 0 divides the
    logits. Returns two [N] float32 tensors. Memory beyond the arguments is bounded by `chunk_elements` logits,
    whatever N; gradients flow to hidden and weight.
    """
    rows = max(1, chunk_elements // weight.shape[0])
    return _TokenLogprobs.apply(hidden, weight, targets, temperature, rows)


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ weight.T).float()
    return torch.log_softmax(logits if temperature == 1.0 else logits / temperature, dim=-1)


def _sum_p_log_p(log_p: Tensor) -> Tensor:
    return (log_p.exp() * log_p).sum(dim=-1)
