"""The smallest example of each thing that generated input has found, by where it was mended."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from rlhf import artifacts
from rlhf.config import read_yaml
from rlhf.data import schemas
from rlhf.data.quarantine import Reading
from rlhf.data.readers import DEEPEST, read_records
from rlhf.errors import ConfigError, DataError, RunError
from rlhf.metrics import read_json_lines
from rlhf.ppo.prompts import read_prompts
from rlhf.tasks import gold_score
from rlhf.tokenization.corpus import read_texts
from rlhf.tokenization.train import train_tokenizer


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(read_records(path))
    return str(caught.value)


def test_records_are_nested_as_deep_as_whoever_handles_them_can_follow(tmp_path: Path) -> None:
    """What json.loads takes at one depth of the stack, json.dumps or repr may refuse at another."""
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"x": {nested(DEEPEST - 1)}}}\n')
    ((_, record),) = read_records(path)

    def deeper(frames: int) -> None:
        if frames:
            return deeper(frames - 1)
        Reading("f").add(DataError("bad"), record)
        str(record)

    deeper(sys.getrecursionlimit() - 2 * DEEPEST - 200)
    path.write_text(f'{{"x": {nested(DEEPEST)}}}\n')
    assert "nested too deep" in refusal(path)


def test_a_pipe_and_a_device_are_no_data_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.jsonl")
    (tmp_path / "b.jsonl").symlink_to("/dev/zero")
    for name in ("a.jsonl", "b.jsonl"):
        assert "is a pipe or a device, not a data file; check the path" in refusal(tmp_path / name)


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").symlink_to("/proc/self/mem")
    assert "a.txt: not readable after record 0 ([Errno 5] Input/output error)" in refusal(tmp_path / "a.txt")


def test_a_long_field_of_a_csv_is_a_field(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("text\n" + "x" * 200_000 + "\n")
    ((_, record),) = read_records(path)
    assert len(record["text"]) == 200_000


def test_a_date_that_python_has_not_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    days = pyarrow.array([0, 2**31 - 1], pyarrow.int32()).cast(pyarrow.date32())
    pyarrow.parquet.write_table(pyarrow.table({"day": days}), path)
    assert "a.parquet: not readable as parquet after record 0 (" in refusal(path)


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"id": "\ud800"}, "half of a character"), ({"source": "\ud800"}, "half of a character"),
        ({"task": {"x": "\ud800"}}, "half of a character"), ({"task": {"x": float("nan")}}, "holds what JSON cannot"),
        ({"task": {"x": datetime.date.max}}, "holds what JSON cannot"),
        ({"prompt": " " * 1_000_002}, "blanks in a row"),
    ],
)
def test_what_would_fail_when_it_is_written_is_refused_when_it_is_read(record: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"^f:1: .*{said}"):
        schemas.prompt_record({"prompt": "x", **record}, "f:1")


def test_messages_do_not_repeat_a_whole_file() -> None:
    for record in ({"x" * 9000: 1}, {f"column {k}": k for k in range(999)}, {"messages": [{"role": "r" * 9000}]}):
        with pytest.raises(DataError) as refused:
            schemas.instruction_record(record, "f:1")
        assert len(str(refused.value)) < 1000
    turn = {"role": "r" * 9000, "content": ""}
    with pytest.raises(DataError) as refused:
        schemas.instruction_record({"messages": [turn]}, "f:1")
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize("record", [{"text": "\ud800"}, {"text": "x", "lang": "\ud800"}])
def test_a_tokenizer_is_not_given_half_a_character(tmp_path: Path, record: dict[str, str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match=r"a\.jsonl:1: holds half of a character"):
        list(read_texts([path]))


def test_long_runs_are_learned_from_in_pieces() -> None:
    """A hundred thousand letters took 27 s as one word on the machine that this was found on."""
    tokenizer = train_tokenizer(["雪月花" * 40_000, "!" * 100_000, " " * 100_000, "an ordinary text"], 300)
    assert tokenizer.decode(tokenizer.encode("雪月花! an ordinary text")) == "雪月花! an ordinary text"


@pytest.mark.parametrize("items", [[""], ["12"], "12", [1], [["1"]], {"1": 1}, None, 3])
def test_items_that_are_no_digits_have_no_answer(items: Any) -> None:
    with pytest.raises(DataError, match="task items"):
        gold_score({"family": "nines", "lang": "en", "items": items}, "8")


@pytest.mark.parametrize("family", [["nines"], {}, None, "none"])
def test_a_family_of_any_type_is_known_or_not(family: Any) -> None:
    with pytest.raises(DataError, match=r"task family .*: unknown"):
        gold_score({"family": family, "lang": "en", "items": ["1"]}, "8")


def test_a_task_without_an_answer_is_found_before_anything_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "x", "task": {"family": "nines", "lang": "en", "items": []}}))

    class Letters:
        def apply_chat_template(self, *_: object, **__: object) -> list[int]:
            return [1]

    with pytest.raises(DataError, match=r"a\.jsonl:1: task items \[\]: none given"):
        read_prompts(path, Letters(), 9)


@pytest.mark.parametrize("line", [b"\xff\n", b"[1]\n", b'"x"\n', b'{"loss": 1}\n', b'{"step": "x"}\n', b"[" * 9000])
def test_of_metrics_a_line_that_is_no_row_is_left_out(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + line + b'\n{"step": 3}\n{"step": 4')
    assert read_json_lines(path) == [{"step": 1}, {"step": 3}]


@pytest.mark.parametrize(
    "change",
    [
        lambda content: {**content, "metrics": []}, lambda content: {**content, "files": {"a": [1]}},
        lambda content: {**content, "stage": None}, lambda content: {**content, "more": 1}, lambda content: [content],
        lambda content: "text",
    ],
)
def test_a_manifest_of_other_types_is_no_manifest(tmp_path: Path, change: Callable[[dict], Any]) -> None:
    with artifacts.publishing(tmp_path / "made", "stage", "hash", {}):
        pass
    manifest = tmp_path / "made" / artifacts.MANIFEST
    manifest.write_text(json.dumps(change(json.loads(manifest.read_text()))))
    with pytest.raises(RunError, match=r"manifest\.json: not a manifest"):
        artifacts.load(tmp_path / "made")


@pytest.mark.parametrize("content", [b"\x1a", b"[" * 5000, b"\xff"])
def test_a_config_of_any_bytes_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ConfigError) as refused:
        read_yaml(tmp_path / "a.yaml")
    assert "\n" not in str(refused.value)
