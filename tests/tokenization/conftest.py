"""One small tokenizer for the tests of this folder."""

from __future__ import annotations

from itertools import islice

import pytest

from rlhf.tasks.world import demonstrations
from rlhf.tokenization.train import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    turns = (turn for record in islice(demonstrations(400, "train", 0.5, 0), 400) for turn in record["messages"])
    return train_tokenizer((text for turn in turns for text in (turn["role"], turn["content"])), vocab_size=512)
