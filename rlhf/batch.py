"""The data of one PPO step: frozen, and checked once when constructed.

Index t speaks about token t: `logprobs[b, t]` = log π(x_t | x_<t), `values[b, t]` = V(x_<t), and
`rewards[b, t]` is received on emitting x_t. Rows are right-padded; everything is 0 outside
`response_mask`; float32, nats.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class Prompt:
    """A conversation to answer: token ids with the generation prompt, its turns, and what the data says of it."""

    id: str
    token_ids: tuple[int, ...]
    text: str = ""
    lang: str = ""
    task: Mapping[str, Any] | None = field(default=None, hash=False)
    source: str = ""
    messages: tuple[Mapping[str, str], ...] = field(default=(), hash=False)


@dataclass(frozen=True)
class PromptBatch:
    """What a rollout is asked for, one entry per response: its prompt, the seed of its sampling, and a number that
    responses to one prompt share."""

    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    groups: Sequence[int]

    def __post_init__(self) -> None:
        if not len(self.prompts) == len(self.seeds) == len(self.groups):
            raise ValueError("PromptBatch: as many seeds and groups as prompts")

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def sources(self) -> list[str]:
        """The data source of each entry."""
        return [prompt.source for prompt in self.prompts]

    def rows(self, chosen: Sequence[int]) -> PromptBatch:
        """Some of the entries, their groups numbered anew from 0 in the order in which they appear."""
        numbers: dict[int, int] = {}
        groups = [numbers.setdefault(self.groups[row], len(numbers)) for row in chosen]
        return PromptBatch([self.prompts[row] for row in chosen], [self.seeds[row] for row in chosen], groups)


def joined(batches: Sequence[PromptBatch]) -> PromptBatch:
    """All entries one after the other; groups of different batches stay apart."""
    groups: list[int] = []
    for batch in batches:
        first = max(groups, default=-1) + 1
        groups.extend(first + group for group in batch.groups)
    prompts = [prompt for batch in batches for prompt in batch.prompts]
    return PromptBatch(prompts, [seed for batch in batches for seed in batch.seeds], groups)


@dataclass(frozen=True)
class Rollout:
    """What the sampler made of B prompts.

    tokens [B, T] int64; attention_mask [B, T] bool; response_mask [B, T] bool, the sampled tokens and the
    only ones trained on; sampler_logprobs [B, T] float32, under the engine that sampled; finished [B] bool,
    False where the length limit cut the response; policy_version, of the weights that sampled; turn_rewards [B, T]
    float32, what an environment paid on emitting each token, 0 everywhere without one; NaN somewhere in a row whose
    environment failed.
    """

    tokens: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    sampler_logprobs: Tensor
    finished: Tensor
    policy_version: int
    turn_rewards: Tensor = None  # type: ignore[assignment]  # zeros once constructed

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        if self.turn_rewards is None:
            object.__setattr__(self, "turn_rewards", torch.zeros(shape))
        _expect(self, "turn_rewards", shape, torch.float32)
        _expect(self, "tokens", shape, torch.int64)
        _expect(self, "attention_mask", shape, torch.bool)
        _expect(self, "response_mask", shape, torch.bool)
        _expect(self, "sampler_logprobs", shape, torch.float32)
        _expect(self, "finished", shape[:1], torch.bool)
        if bool((self.response_mask & ~self.attention_mask).any()):
            raise ValueError("Rollout: a response token lies outside the attention mask")

    def __len__(self) -> int:
        return self.tokens.shape[0]

    @property
    def failed(self) -> Tensor:
        """Which rows' environments failed, [B] bool."""
        return self.turn_rewards.isnan().any(dim=1)

    def lengths(self) -> list[int]:
        """Tokens of each row, prompt and response, without padding."""
        return self.attention_mask.sum(dim=1).tolist()


@dataclass(frozen=True)
class Experience:
    """A rollout made trainable: everything [B, T], float32 but the masks and tokens.

    `weights` multiply the terms of the policy loss (1 without a correction); values and returns are 0 without a critic.
    """

    tokens: Tensor
    attention_mask: Tensor
    response_mask: Tensor
    old_logprobs: Tensor
    ref_logprobs: Tensor
    values: Tensor
    rewards: Tensor
    advantages: Tensor
    returns: Tensor
    weights: Tensor

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        _expect(self, "tokens", shape, torch.int64)
        _expect(self, "attention_mask", shape, torch.bool)
        _expect(self, "response_mask", shape, torch.bool)
        for name in ("old_logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "weights"):
            _expect(self, name, shape, torch.float32)

    def __len__(self) -> int:
        return self.tokens.shape[0]


BatchT = TypeVar("BatchT", Rollout, Experience)


def _expect(batch: Any, name: str, shape: torch.Size, dtype: torch.dtype) -> None:
    tensor = getattr(batch, name)
    if tensor.shape != shape or tensor.dtype != dtype:
        kind = type(batch).__name__
        raise ValueError(f"{kind}.{name}: {list(tensor.shape)} {tensor.dtype}, expected {list(shape)} {dtype}")


def _tensor_names(batch: Rollout | Experience) -> list[str]:
    return [item.name for item in fields(batch) if isinstance(getattr(batch, item.name), Tensor)]


def select(batch: BatchT, rows: Sequence[int]) -> BatchT:
    """The given rows, in the given order, with the columns that no selected row uses cut off."""
    index = torch.as_tensor(rows, dtype=torch.int64)
    width = int(batch.attention_mask[index].sum(dim=1).max()) if len(rows) else 1
    cut = {}
    for name in _tensor_names(batch):
        tensor = getattr(batch, name)[index]
        cut[name] = tensor[:, :width].contiguous() if tensor.dim() == 2 else tensor
    return replace(batch, **cut)


def concatenate(batches: Sequence[BatchT], pad_token: int) -> BatchT:
    """Rows of all batches, in order, padded to the widest. Raises ValueError when policy versions differ."""
    if len(batches) == 1:
        return batches[0]
    versions = {getattr(batch, "policy_version", None) for batch in batches}
    if len(versions) > 1:
        raise ValueError(f"rollouts of different policy versions {sorted(versions)} do not go into one batch")
    width = max(batch.tokens.shape[1] for batch in batches)
    joined = {}
    for name in _tensor_names(batches[0]):
        padding = pad_token if name == "tokens" else 0
        joined[name] = torch.cat([_widen(getattr(batch, name), width, padding) for batch in batches])
    return replace(batches[0], **joined)


def _widen(tensor: Tensor, width: int, padding: int) -> Tensor:
    if tensor.dim() == 1 or tensor.shape[1] == width:
        return tensor
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[1]), value=padding)


def scatter_rows(parts: Sequence[Tensor], rows: Sequence[Sequence[int]], width: int) -> Tensor:
    """Put each part's rows back where they came from: parts [b_i, ≤ width] or [b_i] → [B, width] or [B]."""
    total = sum(len(part) for part in rows)
    shape = (total,) if parts[0].dim() == 1 else (total, width)
    whole = parts[0].new_zeros(shape)
    for part, index in zip(parts, rows, strict=True):
        if len(index):
            whole[torch.as_tensor(index)] = _widen(part, width, 0)
    return whole


def from_completions(
    prompts: Sequence[Sequence[int]],
    completions: Sequence[Sequence[int]],
    logprobs: Sequence[Sequence[float]],
    finished: Sequence[bool],
    pad_token: int,
    policy_version: int,
) -> Rollout:
    """Lay prompts and their sampled tokens out as a right-padded Rollout."""
    width = max(len(p) + len(c) for p, c in zip(prompts, completions, strict=True))
    tokens = torch.full((len(prompts), width), pad_token, dtype=torch.int64)
    attention = torch.zeros((len(prompts), width), dtype=torch.bool)
    response = torch.zeros_like(attention)
    sampled = torch.zeros((len(prompts), width), dtype=torch.float32)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        start, end = len(prompt), len(prompt) + len(completion)
        tokens[row, :end] = torch.tensor([*prompt, *completion])
        attention[row, :end] = True
        response[row, start:end] = True
        sampled[row, start:end] = torch.tensor(logprobs[row], dtype=torch.float32)
    return Rollout(tokens, attention, response, sampled, torch.tensor(finished, dtype=torch.bool), policy_version)
