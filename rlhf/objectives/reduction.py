"""How the terms of tokens become a loss that knows nothing of micro-batches, padding, row order or ranks.

Every response i gets a weight w_i that depends on its length and on the totals of the whole optimizer step, over
all ranks. The loss of a micro-batch is Σ_i w_i Σ_t term_it; its sum over micro-batches and ranks is the loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import torch
from torch import Tensor

from rlhf.objectives.names import Reduction


@dataclass(frozen=True)
class StepTotals:
    """An optimizer step over all ranks: its response tokens, its responses that have any, and the length limit."""

    tokens: int
    responses: int
    max_new_tokens: int


def step_totals(lengths: Tensor, max_new_tokens: int) -> StepTotals:
    """The totals of a step from the response lengths of all its rows, [N] int64, whichever rank trains on them."""
    return StepTotals(int(lengths.sum()), int((lengths > 0).sum()), max_new_tokens)


def row_weights(lengths: Tensor, kind: Reduction, totals: StepTotals) -> Tensor:
    """The weight w_i of each response of a micro-batch.

    token_mean: 1 / tokens (DAPO, arXiv:2503.14476, section 3.3);
    sequence_mean_token_mean: 1 / (responses · length_i) (GRPO, arXiv:2402.03300, equation 3);
    sequence_mean_token_sum: 1 / responses (REINFORCE's own, as in RLOO, arXiv:2402.14740);
    sequence_mean_token_sum_norm: 1 / (responses · max_new_tokens) (Dr. GRPO, arXiv:2503.20783).

    A response without tokens (filtered out, or a rank's stand-in for an empty micro-batch) has weight 0 and is not
    among `responses`. Args: lengths [B] int64. Returns [B] float32. Raises ValueError for another kind.
    """
    has_tokens = (lengths > 0).double()
    responses = max(1, totals.responses)
    if kind == "token_mean":
        weights = has_tokens / max(1, totals.tokens)
    elif kind == "sequence_mean_token_mean":
        weights = has_tokens / (responses * lengths.clamp(min=1))
    elif kind == "sequence_mean_token_sum":
        weights = has_tokens / responses
    elif kind == "sequence_mean_token_sum_norm":
        weights = has_tokens / (responses * totals.max_new_tokens)
    else:
        raise ValueError(f"reduction '{kind}': choose one of {', '.join(get_args(Reduction))}")
    return weights.to(torch.float32)


def weighted_sum(terms: Tensor, weights: Tensor) -> Tensor:
    """Σ_i w_i Σ_t term_it, a scalar with the gradient of terms; terms [B, T], 0 outside the mask; weights [B]."""
    return (terms.sum(dim=1) * weights).sum()
