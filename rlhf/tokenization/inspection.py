"""What a tokenizer makes of a text: how densely it packs each language, and how a line is cut."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Density:
    """Sizes of the same texts in four units."""

    texts: int
    characters: int
    bytes: int
    tokens: int

    @property
    def bytes_per_token(self) -> float:
        """UTF-8 bytes that one token stands for on average; 0 without tokens."""
        return self.bytes / self.tokens if self.tokens else 0.0

    @property
    def characters_per_token(self) -> float:
        return self.characters / self.tokens if self.tokens else 0.0


def density(tokenizer: PreTrainedTokenizerBase, texts: Iterable[str]) -> Density:
    """Count characters, UTF-8 bytes and tokens of `texts`."""
    texts = list(texts)
    tokens = sum(len(tokenizer.encode(text, add_special_tokens=False)) for text in texts)
    return Density(len(texts), sum(map(len, texts)), sum(len(text.encode()) for text in texts), tokens)


def density_by_language(
    tokenizer: PreTrainedTokenizerBase, texts: Iterable[tuple[str, str]]
) -> Mapping[str, Density]:
    """Density per language of pairs (language, text)."""
    by_language: dict[str, list[str]] = {}
    for lang, text in texts:
        by_language.setdefault(lang, []).append(text)
    return {lang: density(tokenizer, found) for lang, found in sorted(by_language.items())}


def pieces(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """The text of each token in turn; bytes that are no whole character show as U+FFFD."""
    return [tokenizer.decode([token]) for token in tokenizer.encode(text, add_special_tokens=False)]
