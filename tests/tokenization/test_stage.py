"""Stage `tokenizer`: publishes a directory that transformers opens, and refuses bad files in one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rlhf.config import validate
from rlhf.context import RunContext
from rlhf.errors import ConfigError, DataError
from rlhf.progress import LineProgress
from rlhf.stage import inputs
from rlhf.stages.tokenizer import TokenizerConfig, run

RECORDS = [
    {"text": "the cat and the dog", "lang": "en"},
    {"messages": [{"role": "user", "content": "猫和狗"}, {"role": "assistant", "content": "狗和猫"}], "lang": "zh"},
    {"prompt": [{"role": "user", "content": "猫?"}], "chosen": "猫", "rejected": "狗", "lang": "zh"},
]


def context(tmp_path: Path) -> RunContext:
    return RunContext("tokenizer", tmp_path / "tokenizer", "hash", {}, LineProgress())


def config(tmp_path: Path, content: str, **changes) -> TokenizerConfig:
    file = tmp_path / "records.jsonl"
    file.write_text(content, encoding="utf-8")
    return TokenizerConfig(output=tmp_path / "tokenizer", train_files=[str(file)], vocab_size=280, **changes)


def lines(*records: dict) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def test_publishes_a_directory_that_transformers_opens(tmp_path: Path) -> None:
    artifact = run(config(tmp_path, lines(*RECORDS)), context(tmp_path))
    tokenizer = AutoTokenizer.from_pretrained(artifact.path)
    assert tokenizer.decode(tokenizer.encode("猫 😀 cat")) == "猫 😀 cat"
    assert artifact.metrics["vocab_size"] == len(tokenizer) <= 280
    assert set(artifact.metrics["bytes_per_token"]) == {"en", "zh"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "records.jsonl: holds no records"),
        ('{"text": "a"}\n{"text"\n', "records.jsonl:2: malformed line"),
        ('{"txt": "a"}\n', r"records.jsonl:1: no text in this record"),
        ('{"text": 3}\n', "records.jsonl:1: key 'text' holds a int"),
        ('{"messages": [{"role": "user"}]}\n', "records.jsonl:1: key 'messages': every turn"),
    ],
)
def test_bad_files_are_refused_and_nothing_is_left(tmp_path: Path, content: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        run(config(tmp_path, content), context(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["records.jsonl"]


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    absent = TokenizerConfig(output=tmp_path / "tokenizer", train_files=[str(tmp_path / "absent.jsonl")])
    with pytest.raises(DataError, match=r"absent\.jsonl: no such data file"):
        run(absent, context(tmp_path))


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="vocab_size 200: 256 bytes and the special tokens alone take 259"):
        validate(TokenizerConfig, {"output": "out", "train_files": ["a"], "vocab_size": 200})


def test_training_files_count_as_inputs() -> None:
    assert list(inputs(TokenizerConfig(output="out", train_files=["a", "b"]))) == [
        ("train_files.0", "a", False), ("train_files.1", "b", False),
    ]
