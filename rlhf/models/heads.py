"""What PPO asks of a model: log-probabilities of sampled tokens, a value per token, a score per sequence.

Each wraps a transformers model and runs its body once; only the positions that predict response tokens
reach the head. Rows are right-padded and attention is causal, so a real token never sees padding: no
attention mask is built, and the fast causal kernels apply.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rlhf.objectives.logprobs import CHUNK_ELEMENTS, token_logprobs


class LogprobHead(nn.Module):
    """An output embedding that answers with log-probabilities instead of logits.

    It takes the place of `lm_head` under the same parameter name, and is called once a forward pass, so
    that ZeRO-3 gathers the weight once on every rank however many tokens the rank holds.
    """

    def __init__(self, weight: nn.Parameter, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        super().__init__()
        self.weight = weight
        self.chunk_elements = chunk_elements

    def forward(self, hidden: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        """hidden [N, H], targets [N] int64 → log-probabilities and entropies, [N] float32, nats."""
        return token_logprobs(hidden, self.weight, targets, temperature, self.chunk_elements)


class PolicyModel(nn.Module):
    """A causal language model that returns the log-probabilities of its response tokens."""

    def __init__(self, lm: Any, temperature: float = 1.0, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        super().__init__()
        output = lm.get_output_embeddings()
        if getattr(output, "bias", None) is not None:
            raise ValueError("output embeddings with a bias are not supported")
        self.body = lm.get_decoder()
        self.head = LogprobHead(output.weight, chunk_elements)
        self.temperature = temperature

    def forward(self, tokens: Tensor, response_mask: Tensor) -> tuple[Tensor, Tensor]:
        """[B, T] int64, bool → log π(x_t | x_<t) and entropy, both [B, T] float32, 0 outside the mask."""
        hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        predicted = response_mask[:, 1:]
        logprobs, entropy = self.head(hidden[:, :-1][predicted], tokens[:, 1:][predicted], self.temperature)
        return _place(logprobs, response_mask), _place(entropy, response_mask)


class ValueModel(nn.Module):
    """A one-output sequence classifier read as a value function."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.body = classifier.get_decoder()
        self.score = classifier.score

    def forward(self, tokens: Tensor, response_mask: Tensor) -> Tensor:
        """[B, T] int64, bool → V(x_<t), [B, T] float32, 0 outside the mask."""
        hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        values = self.score(hidden[:, :-1][response_mask[:, 1:]]).squeeze(-1).float()
        return _place(values, response_mask)


class SequenceScorer(nn.Module):
    """A one-output sequence classifier read at the last token of each row."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.body = classifier.get_decoder()
        self.score = classifier.score

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> Tensor:
        """[B, T] int64, bool → [B] float32."""
        hidden = self.body(input_ids=tokens, use_cache=False).last_hidden_state
        last = attention_mask.sum(dim=1) - 1
        return self.score(hidden[torch.arange(len(last), device=last.device), last]).squeeze(-1).float()


def _place(values: Tensor, mask: Tensor) -> Tensor:
    """Spread [N] values over the True slots of mask [B, T]; 0 elsewhere. Slot 0 never is a response."""
    placed = torch.zeros(mask.shape, dtype=values.dtype, device=values.device)
    return placed.masked_scatter(mask, values)


def transformers_names(wrapper: nn.Module, model: Any) -> dict[str, str]:
    """Parameter names of a wrapper → names in the transformers model that it wraps, by identity."""
    theirs = {id(parameter): name for name, parameter in model.named_parameters(remove_duplicate=False)}
    return {name: theirs[id(parameter)] for name, parameter in wrapper.named_parameters()}
