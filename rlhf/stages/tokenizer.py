"""Stage `tokenizer`: trains a byte-level BPE tokenizer and publishes it as a transformers directory."""

from __future__ import annotations

from itertools import islice

from pydantic import Field, model_validator

from rlhf import artifacts
from rlhf.artifacts import Artifact
from rlhf.context import RunContext
from rlhf.stage import Input, StageConfig
from rlhf.tokenization.template import SPECIAL_TOKENS
from rlhf.tokenization.train import BYTES

_INSPECTED = 2_000  # texts, enough for two digits of bytes per token


class TokenizerConfig(StageConfig):
    """What the tokenizer learns from and how large it becomes."""

    train_files: list[Input] = Field(min_length=1, description="JSONL files of any record kind")
    vocab_size: int = Field(1024, gt=0, description="tokens at most, special tokens and 256 bytes included")
    min_frequency: int = Field(2, ge=1, description="a pair seen less often is not merged")
    max_length: int = Field(4096, gt=0, description="tokens; recorded as the tokenizer's own limit")
    extra_special_tokens: list[str] = Field([], description="besides the three of the chat template")

    @model_validator(mode="after")
    def _room_for_bytes(self) -> TokenizerConfig:
        least = BYTES + len(SPECIAL_TOKENS) + len(self.extra_special_tokens)
        if self.vocab_size < least:
            raise ValueError(f"vocab_size {self.vocab_size}: 256 bytes and the special tokens alone take {least}")
        return self


def run(config: TokenizerConfig, context: RunContext) -> Artifact:
    """Train, inspect, publish. Raises DataError for missing, empty or malformed files."""
    from rlhf.tokenization.corpus import read_texts
    from rlhf.tokenization.inspection import density_by_language
    from rlhf.tokenization.train import train_tokenizer

    texts = (text for _, text in read_texts(config.train_files))
    tokenizer = train_tokenizer(
        texts, config.vocab_size, config.min_frequency, config.max_length, config.extra_special_tokens
    )
    with context.publishing() as draft:
        tokenizer.save_pretrained(draft.path)
        found = density_by_language(tokenizer, islice(read_texts(config.train_files), _INSPECTED))
        draft.metrics["vocab_size"] = len(tokenizer)
        draft.metrics["bytes_per_token"] = {lang: round(item.bytes_per_token, 3) for lang, item in found.items()}
        draft.metrics["characters_per_token"] = {
            lang: round(item.characters_per_token, 3) for lang, item in found.items()
        }
    context.progress.note(f"tokenizer: {len(tokenizer)} tokens, bytes per token {draft.metrics['bytes_per_token']}")
    return artifacts.load(context.directory)
