"""Records of several files, and examples too few or too long to train on."""

import pytest

from rlhf.data.encoding import Encoded
from rlhf.data.schemas import TextRecord, text_record
from rlhf.errors import ConfigError, DataError
from rlhf.training.config import TrainingConfig
from rlhf.training.examples import read_examples
from rlhf.training.inputs import by_language, counts, read_all, store


def encoded(count, left_out=0):
    return Encoded({"input_ids": [[1, 2, 3]] * count, "labels": [[1, -100, 3]] * count}, left_out, 3 * count)


def test_records_of_all_files_in_order(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "1", "lang": "zh"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "2", "lang": "en"}\n{"text": "3", "lang": "zh"}\n')
    found = read_all([str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")], text_record)
    assert found == [TextRecord("1", "zh"), TextRecord("2", "en"), TextRecord("3", "zh")]
    assert {lang: len(items) for lang, items in by_language(found).items()} == {"en": 1, "zh": 2}
    with pytest.raises(DataError, match=r"a.jsonl:1: missing columns for text data"):
        read_all([str(tmp_path / "a.jsonl")], lambda record, place: text_record({"id": 1}, place))


def test_examples_come_back_as_they_were_written(tmp_path):
    steps = store(tmp_path, encoded(70), {"zh": encoded(3), "en": encoded(0, 2)}, TrainingConfig(), "max_length")
    train, validation = read_examples(tmp_path)
    assert steps == 1
    assert (len(train), train[0]) == (70, {"input_ids": [1, 2, 3], "labels": [1, -100, 3], "length": 3})
    assert {lang: len(part) for lang, part in validation.items()} == {"zh": 3}


def test_nothing_to_train_on(tmp_path):
    with pytest.raises(DataError, match=r"no training example is left.*raise max_length"):
        store(tmp_path, encoded(0, 9), {"zh": encoded(3)}, TrainingConfig(), "max_length")
    with pytest.raises(DataError, match="no validation example is left"):
        store(tmp_path, encoded(70), {"zh": encoded(0, 3)}, TrainingConfig(), "max_length")
    with pytest.raises(ConfigError, match="batch_size is 64, but there are only 63 training examples"):
        store(tmp_path, encoded(63), {"zh": encoded(3)}, TrainingConfig(), "max_length")


def test_counts():
    assert counts(encoded(10, 2), {"zh": encoded(3, 1), "en": encoded(4)}, 5) == {
        "steps": 5, "examples_train": 10, "examples_validation": 7, "examples_left_out": 3, "tokens_train": 30,
    }
