"""A trained tokenizer: lossless on any script, small, and the same after a round trip through a directory."""

from __future__ import annotations

from unicodedata import normalize

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, Qwen2Config

from rlhf.errors import DataError
from rlhf.tokenization.inspection import density_by_language, pieces
from rlhf.tokenization.train import train_tokenizer

TEXTS = [
    "Sort these digits: 5 2 9",
    "把数字从小到大排列:5、2、9",
    "emoji 😀👩‍👩‍👧 and 𝒳, ½ ² é",
    " spaces  of\tall\r\n\n kinds\u3000\u2028 ",
    "it's I'M don't",
    "العربية हिन्दी ไทย",
    "",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_round_trip(tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text_round_trips(tokenizer, text: str) -> None:
    """Lossless up to Unicode's canonical composition, which Qwen2's normaliser applies."""
    assert tokenizer.decode(tokenizer.encode(text)) == normalize("NFC", text)


def test_size_special_tokens_and_digits(tokenizer) -> None:
    assert len(tokenizer) == 512
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|im_end|>", "<|endoftext|>")
    assert tokenizer.bos_token is None
    assert pieces(tokenizer, "12 345") == ["1", "2", " ", "3", "4", "5"]


def test_a_reloaded_tokenizer_is_the_same_even_beside_a_model(tokenizer, tmp_path) -> None:
    tokenizer.save_pretrained(tmp_path)
    Qwen2Config(vocab_size=512).save_pretrained(tmp_path)
    reloaded = AutoTokenizer.from_pretrained(tmp_path)
    assert [reloaded.encode(text) for text in TEXTS] == [tokenizer.encode(text) for text in TEXTS]
    assert reloaded.decode(reloaded.encode(TEXTS[3])) == TEXTS[3]
    assert (reloaded.chat_template, reloaded.eos_token_id, reloaded.pad_token_id) == (tokenizer.chat_template, 2, 0)
    assert reloaded.model_max_length == tokenizer.model_max_length == 4096


def test_training_is_deterministic() -> None:
    first, second = (train_tokenizer(TEXTS * 3, 300).get_vocab() for _ in range(2))
    assert first == second


def test_extra_special_tokens_are_never_cut() -> None:
    tokenizer = train_tokenizer(TEXTS, 300, extra_special_tokens=["<|tool|>"])
    assert len(tokenizer.encode("<|tool|>")) == 1


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_nothing_to_learn_from_is_refused(texts: list[str]) -> None:
    with pytest.raises(DataError, match="no text"):
        train_tokenizer(texts, 300)


def test_density_is_counted_per_language(tokenizer) -> None:
    found = density_by_language(tokenizer, [("zh", "猫、狗"), ("en", "a cat"), ("zh", "红")])
    assert (found["zh"].texts, found["zh"].characters, found["zh"].bytes) == (2, 4, 12)
    assert found["en"].bytes_per_token == 5 / found["en"].tokens
