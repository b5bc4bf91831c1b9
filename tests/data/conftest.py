"""A tokenizer of the platform's own make, trained on a few sentences."""

import pytest

from rlhf.tokenization.train import train_tokenizer

SENTENCES = ["What is two and two?", "It is four.", "把数字排序:三一二", "一二三", "reverse these words", "user"]


@pytest.fixture(scope="session")
def tokenizer():
    return train_tokenizer(SENTENCES * 4, 320)
