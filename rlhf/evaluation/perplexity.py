"""Perplexity of a language model on texts, by language."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from rlhf import partition
from rlhf.device import current
from rlhf.models.heads import PolicyModel


@torch.no_grad()
def negative_log_likelihood(model: PolicyModel, sequences: Sequence[Sequence[int]], budget: int) -> tuple[float, int]:
    """Sum of −log p of every token but the first of each sequence, nats; and the number of those tokens."""
    lengths = [len(sequence) for sequence in sequences]
    total, count = 0.0, 0
    for rows in partition.micro_batches(lengths, range(len(sequences)), budget):
        width = max(lengths[row] for row in rows)
        tokens = torch.zeros((len(rows), width), dtype=torch.int64)
        predicted = torch.zeros((len(rows), width), dtype=torch.bool)
        for k, row in enumerate(rows):
            tokens[k, : lengths[row]] = torch.tensor(sequences[row])
            predicted[k, 1 : lengths[row]] = True
        logprobs, _ = model(tokens.to(current()), predicted.to(current()))
        total -= float(logprobs.double().sum())
        count += int(predicted.sum())
    return total, count


def perplexities(
    model: PolicyModel, tokenizer: Any, texts: Mapping[str, Sequence[str]], max_tokens: int, budget: int
) -> dict[str, float]:
    """exp of the mean negative log-likelihood per token, for each language of `texts`."""
    found = {}
    for lang, documents in texts.items():
        sequences = [tokenizer(text, add_special_tokens=False)["input_ids"][:max_tokens] for text in documents]
        total, count = negative_log_likelihood(model, [s for s in sequences if len(s) > 1], budget)
        found[lang] = math.exp(total / count) if count else math.nan
    return found
