"""Records → token ids and labels, in the shapes that the training stages read."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from rlhf.data.schemas import Message, PreferenceRecord

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100  # a label that takes no part in the loss (torch's and transformers' convention)
_BATCH = 1000  # texts tokenised in one call


@dataclass
class Encoded:
    """Examples as columns of token lists, and how many records gave none because of their length."""

    columns: dict[str, list[list[int]]]
    left_out: int = 0
    tokens: int = field(default=0)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))


def encode_blocks(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[str], block_length: int, keep_rest: bool = False
) -> Encoded:
    """Columns `input_ids` and `labels`: all texts in a row, each closed by the end token, cut every `block_length`.

    What is left at the end is dropped, or with `keep_rest` filled up with end tokens that take no part in the loss.
    """
    encoded = Encoded({"input_ids": [], "labels": []})
    row: list[int] = []
    for batch in _batches(texts):
        for ids in tokenizer(batch, add_special_tokens=False, verbose=False)["input_ids"]:
            row += [*ids, tokenizer.eos_token_id]
        encoded.tokens += len(row) - len(row) % block_length
        for start in range(0, len(row) - block_length + 1, block_length):
            _add_block(encoded, row[start : start + block_length], block_length, tokenizer.eos_token_id)
        row = row[len(row) - len(row) % block_length :]
    if keep_rest and row:
        encoded.tokens += len(row)
        _add_block(encoded, row, block_length, tokenizer.eos_token_id)
    return encoded


def _add_block(encoded: Encoded, block: list[int], length: int, filler: int) -> None:
    missing = length - len(block)
    encoded.columns["input_ids"].append(block + [filler] * missing)
    encoded.columns["labels"].append(block + [IGNORED] * missing)


def encode_conversations(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Iterable[Sequence[Message]],
    max_length: int,
    template: str | None = None,
) -> Encoded:
    """Columns `input_ids` and `labels`: a label is the token where the assistant wrote it, end token included.

    Elsewhere it is -100. What is longer than `max_length` tokens is cut at its end, and left out when nothing of
    the assistant's remains. `template` is a chat template with marks, where the tokenizer's own has none.
    """
    encoded = Encoded({"input_ids": [], "labels": []})
    for batch in _batches(conversations):
        found = tokenizer.apply_chat_template(
            batch, chat_template=template, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        for ids, mask in zip(found["input_ids"], found["assistant_masks"], strict=True):
            labels = [token if own else IGNORED for token, own in zip(ids[:max_length], mask, strict=False)]
            if any(mask[:max_length]):
                encoded.columns["input_ids"].append(ids[:max_length])
                encoded.columns["labels"].append(labels)
                encoded.tokens += len(labels)
            else:
                encoded.left_out += 1
    return encoded


def encode_pairs(
    tokenizer: PreTrainedTokenizerBase, pairs: Iterable[PreferenceRecord], max_length: int
) -> Encoded:
    """Columns `chosen_ids` and `rejected_ids`; pairs of which one side is longer than `max_length` are left out."""
    encoded = Encoded({"chosen_ids": [], "rejected_ids": []})
    for batch in _batches(pairs):
        prompts = prompt_ids(tokenizer, [pair.prompt for pair in batch])
        chosen = response_ids(tokenizer, [pair.chosen for pair in batch])
        rejected = response_ids(tokenizer, [pair.rejected for pair in batch])
        for prompt, better, worse in zip(prompts, chosen, rejected, strict=True):
            if len(prompt) + max(len(better), len(worse)) > max_length:
                encoded.left_out += 1
                continue
            encoded.columns["chosen_ids"].append(prompt + better)
            encoded.columns["rejected_ids"].append(prompt + worse)
            encoded.tokens += 2 * len(prompt) + len(better) + len(worse)
    return encoded


def prompt_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Sequence[Message]]) -> list[list[int]]:
    """Each conversation up to where the assistant begins to write."""
    return tokenizer.apply_chat_template(list(prompts), tokenize=True, add_generation_prompt=True, return_dict=False)


def response_ids(tokenizer: PreTrainedTokenizerBase, responses: Sequence[str]) -> list[list[int]]:
    """What the assistant would emit for each response: its tokens, then the end token.

    Prompt and response are tokenised apart, because that is what a reward model sees when it scores a rollout.
    """
    found = tokenizer(list(responses), add_special_tokens=False)["input_ids"]
    return [[*ids, tokenizer.eos_token_id] for ids in found]


def _batches(items: Iterable[Any]) -> Iterator[list[Any]]:
    rest = iter(items)
    for first in rest:
        yield list(chain([first], islice(rest, _BATCH - 1)))


def longer_is_better(parts: Iterable[Mapping[str, Sequence[Sequence[int]]]]) -> float:
    """Share of pairs that the longer response (in tokens) wins, ties counted half: what a reward model has to beat."""
    wins = [
        0.5 if len(chosen) == len(rejected) else float(len(chosen) > len(rejected))
        for columns in parts
        for chosen, rejected in zip(columns["chosen_ids"], columns["rejected_ids"], strict=True)
    ]
    return sum(wins) / len(wins)
