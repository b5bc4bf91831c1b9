"""Trains a byte-level BPE tokenizer with a chat template, in the conventions of the Qwen2 family.

transformers opens the tokenizer beside a Qwen2 model as its `Qwen2Tokenizer`, whatever the directory says of its
class, with that class's own normaliser (NFC) and its own cut into words, digits and punctuation. Merges learned
under another cut would then be applied under this one, silently; so it is this one that they are learned under.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from rlhf.errors import DataError
from rlhf.tokenization.template import CHAT_TEMPLATE, END_OF_TEXT, SPECIAL_TOKENS, TURN_END

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

BYTES = 256
_RUN = re.compile(r"[^\W\d_]{256}|(?:[^\w\s]|_){256}|\s{256}")


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    min_frequency: int = 2,
    max_length: int = 4096,
    extra_special_tokens: Sequence[str] = (),
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `vocab_size` tokens: special tokens first, then the 256 bytes, then merges.

    `max_length` (tokens) is recorded as the tokenizer's own limit. Raises DataError when `texts` holds nothing.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    convention = Qwen2Tokenizer().backend_tokenizer
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = convention.normalizer
    tokenizer.pre_tokenizer = convention.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=[*SPECIAL_TOKENS, *extra_special_tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_in_pieces(_refuse_nothing(texts)), trainer)
    return _with_chat(tokenizer, max_length, extra_special_tokens)


def _with_chat(tokenizer: Tokenizer, max_length: int, extra_special_tokens: Sequence[str]) -> PreTrainedTokenizerFast:
    from transformers import Qwen2Tokenizer

    learned = json.loads(tokenizer.to_str())["model"]
    wrapped = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(merge) for merge in learned["merges"]],
        unk_token=None,  # every byte is known
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[*SPECIAL_TOKENS, *extra_special_tokens],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
        padding_side="right",
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def _in_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts, cut within runs of letters, of marks or of white space that are longer than any word.

    Learning merges takes the square of a run's length: a line of a million letters would take days.
    """
    for text in texts:
        start = 0
        for run in _RUN.finditer(text):
            yield text[start : run.end()]
            start = run.end()
        if start < len(text):
            yield text[start:]


def _refuse_nothing(texts: Iterable[str]) -> Iterable[str]:
    found = False
    for text in texts:
        found = found or bool(text)
        yield text
    if not found:
        raise DataError("tokenizer training: the files hold no text at all; give files with text to train on")
