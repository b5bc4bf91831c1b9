"""The frozen roles: log-probabilities under the reference, scores of the reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rlhf import partition
from rlhf.batch import Rollout, select
from rlhf.device import current


@dataclass(frozen=True)
class Passes:
    """Rows of a rollout, and the micro-batches in which they are computed; an empty one is a pass whose result nobody
    wants, for ranks that compute together."""

    rows: Sequence[int]
    micro_batches: Sequence[Sequence[int]]

    @classmethod
    def alone(cls, rollout: Rollout, budget: int, rank: int = 0, ranks: int = 1) -> Passes:
        """A rank's rows, balanced by tokens, the same on every process that asks; `budget`: padded tokens of a pass."""
        rows = partition.balance(rollout.lengths(), ranks)[rank]
        return cls(rows, partition.micro_batches(rollout.lengths(), rows, budget))

    @classmethod
    def together(cls, rollout: Rollout, budget: int, rank: int, ranks: int) -> Passes:
        """The same, with as many passes on every rank."""
        parts = partition.balance(rollout.lengths(), ranks)
        return cls(parts[rank], partition.plan(rollout.lengths(), parts, budget)[rank])

    def places(self, chosen: Sequence[int]) -> list[int]:
        """Where rows stand among those of the rank."""
        place = {row: k for k, row in enumerate(self.rows)}
        return [place[row] for row in chosen]


@torch.no_grad()
def reference_logprobs(model: nn.Module, rollout: Rollout, passes: Passes) -> Tensor:
    """log π_ref of the response tokens of the rows, [b, T] float32, nats; `model` is a PolicyModel."""
    result = torch.zeros((len(passes.rows), rollout.tokens.shape[1]))
    for chosen in passes.micro_batches:
        batch = select(rollout, chosen or [0])
        logprobs, _ = model(batch.tokens.to(current()), batch.response_mask.to(current()))
        if chosen:
            result[passes.places(chosen), : logprobs.shape[1]] = logprobs.cpu()
    return result


@torch.no_grad()
def reward_scores(model: nn.Module, rollout: Rollout, passes: Passes, end_token: int) -> Tensor:
    """Scores of the rows, [b] float32; `model` is a SequenceScorer.

    The reward model was trained on conversations that end with the end token, so a response that was cut at
    the length limit gets one: it is then scored as the text it is, not as an input of a kind never seen.
    """
    scores = torch.zeros(len(passes.rows))
    for chosen in passes.micro_batches:
        tokens, attention = _closed(select(rollout, chosen or [0]), end_token)
        found = model(tokens.to(current()), attention.to(current())).cpu()
        if chosen:
            scores[passes.places(chosen)] = found
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
