"""The frozen roles: log-probabilities under the reference, scores of the reward model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rlhf import partition
from rlhf.batch import Rollout, select
from rlhf.device import current


def rows_of_rank(rollout: Rollout, rank: int, ranks: int) -> list[int]:
    """The rows that a rank works on: balanced by tokens, the same on every process that asks."""
    return partition.balance(rollout.lengths(), ranks)[rank]


@torch.no_grad()
def reference_logprobs(model: nn.Module, rollout: Rollout, rows: Sequence[int], budget: int) -> Tensor:
    """log π_ref of the response tokens of `rows`, [b, T] float32, nats; `model` is a PolicyModel."""
    result = torch.zeros((len(rows), rollout.tokens.shape[1]))
    place = {row: k for k, row in enumerate(rows)}
    for chosen in partition.micro_batches(rollout.lengths(), rows, budget):
        batch = select(rollout, chosen)
        logprobs, _ = model(batch.tokens.to(current()), batch.response_mask.to(current()))
        result[[place[row] for row in chosen], : logprobs.shape[1]] = logprobs.cpu()
    return result


@torch.no_grad()
def reward_scores(model: nn.Module, rollout: Rollout, rows: Sequence[int], end_token: int, budget: int) -> Tensor:
    """Scores of `rows`, [b] float32; `model` is a SequenceScorer.

    The reward model was trained on conversations that end with the end token, so a response that was cut at
    the length limit gets one: it is then scored as the text it is, not as an input of a kind never seen.
    """
    scores = torch.zeros(len(rows))
    place = {row: k for k, row in enumerate(rows)}
    for chosen in partition.micro_batches(rollout.lengths(), rows, budget):
        tokens, attention = _closed(select(rollout, chosen), end_token)
        scores[[place[row] for row in chosen]] = model(tokens.to(current()), attention.to(current())).cpu()
    return scores


def _closed(batch: Rollout, end_token: int) -> tuple[Tensor, Tensor]:
    """Tokens [b, T + 1] and attention mask with the end token behind every unfinished response."""
    tokens = torch.nn.functional.pad(batch.tokens, (0, 1), value=end_token)
    attention = torch.nn.functional.pad(batch.attention_mask, (0, 1), value=False)
    lengths = batch.attention_mask.sum(dim=1)
    rows = torch.nonzero(~batch.finished).squeeze(1)
    tokens[rows, lengths[rows]] = end_token
    attention[rows, lengths[rows]] = True
    return tokens, attention
