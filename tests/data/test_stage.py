"""Stage `data`, from files of several spellings and from the world of tasks."""

import json

import pytest

from rlhf.config import validate
from rlhf.context import RunContext
from rlhf.data.readers import read_records
from rlhf.errors import ConfigError, DataError
from rlhf.progress import LineProgress
from rlhf.stages.data import DataConfig, run


def published(tmp_path, source, seed=0, name="data"):
    config = validate(DataConfig, {"output": str(tmp_path / name), "seed": seed, "source": source})
    return run(config, RunContext("data", tmp_path / name, "hash", {}, LineProgress()))


def rows(artifact, name):
    return [record for _, record in read_records(artifact.path / f"{name}.jsonl")]


def openings(artifact, name, turns):
    """The first turns in a file."""
    return {row[turns][0]["content"] for row in rows(artifact, name)}


@pytest.fixture
def source(tmp_path):
    """Files with 200 documents, 200 instructions (Alpaca), 100 pairs, and some of each that must go."""
    texts = [{"text": f"document number {n} is long enough"} for n in range(200)] + [{"text": "short"}] * 3
    tasks = [{"instruction": f"say {n}", "input": "", "output": str(n)} for n in range(200)]
    tasks += [{"instruction": "say nothing", "input": "", "output": " "}, tasks[0]]
    pairs = [{"prompt": f"say {n % 50}", "chosen": f"{n}", "rejected": "no"} for n in range(100)]
    pairs += [{"prompt": "same", "chosen": "x", "rejected": "x "}]
    for name, records in (("text", texts), ("tasks", tasks), ("pairs", pairs)):
        content = "".join(json.dumps(record) + "\n" for record in records)
        (tmp_path / f"{name}.jsonl").write_text(content)
    named = {name: [{"files": [str(tmp_path / f"{name}.jsonl")], "lang": "en"}] for name in ("text", "tasks", "pairs")}
    return {
        "kind": "files", "text": named["text"], "instructions": named["tasks"], "preferences": named["pairs"],
        "validation": 0.2, "heldout": 0.2,
    }


def test_files_give_every_split(tmp_path, source):
    artifact = published(tmp_path, source)
    assert artifact.metrics["left_out"] == {
        "text": {"too_short": 3}, "sft": {"empty": 1, "duplicate": 1}, "preference": {"no_difference": 1},
    }
    train, validation = (openings(artifact, name, "messages") for name in ("sft_train", "sft_validation"))
    heldout = openings(artifact, "prompts_heldout", "prompt")
    assert openings(artifact, "prompts_train", "prompt") == train
    assert not train & validation
    assert not heldout & (train | validation)
    assert len(train) + len(validation) + len(heldout) == 200
    assert rows(artifact, "text_train")[0].keys() == {"text", "lang"}
    assert {row["lang"] for row in rows(artifact, "prompts_heldout")} == {"en"}
    assert len({row["id"] for row in rows(artifact, "prompts_train")}) == len(rows(artifact, "prompts_train"))


def test_pairs_of_one_prompt_stay_together(tmp_path, source):
    artifact = published(tmp_path, source)
    assert not openings(artifact, "preference_train", "prompt") & openings(artifact, "preference_validation", "prompt")
    assert len(rows(artifact, "preference_train")) + len(rows(artifact, "preference_validation")) == 100


def test_equal_seeds_give_equal_files(tmp_path, source):
    first, same, other = (published(tmp_path, source, seed, f"d{n}") for n, seed in enumerate((0, 0, 1)))
    assert first.manifest.files == same.manifest.files
    assert first.manifest.files != other.manifest.files


def test_weights_and_limits(tmp_path, source):
    source["instructions"] = [{**source["instructions"][0], "weight": 2, "max_records": 100}]
    source |= {"max_prompts_train": 10, "max_prompts_heldout": 5}
    metrics = published(tmp_path, source).metrics["records"]
    assert (metrics["prompts_train"], metrics["prompts_heldout"]) == (10, 5)
    assert 2 * 40 < metrics["sft_train"] < 2 * 80


def test_an_empty_split_publishes_nothing(tmp_path, source):
    source["instructions"] = [{**source["instructions"][0], "max_records": 1}]
    with pytest.raises(DataError, match=r"no record is left for it; .* source\.max_response\); .* source\.doc"):
        published(tmp_path, source)
    assert not (tmp_path / "data").exists()


def test_wrong_columns_name_file_and_line(tmp_path, source):
    source["text"], source["preferences"] = source["preferences"], []
    with pytest.raises(DataError, match=r"pairs.jsonl:1: missing columns for text data: expected 'text'"):
        published(tmp_path, source)


def test_nothing_to_read():
    with pytest.raises(ConfigError, match="at least one of text, instructions and preferences"):
        validate(DataConfig, {"output": "x", "source": {"kind": "files"}})


def test_world_of_tasks(tmp_path):
    sizes = {"text_train": 50, "text_validation": 10, "sft_train": 30, "sft_validation": 10, "prompts_train": 20}
    artifact = published(tmp_path, {"kind": "tasks", **sizes, "prompts_heldout": 10})
    assert artifact.metrics["records"] == {**sizes, "prompts_heldout": 10}
    assert "task" in rows(artifact, "prompts_heldout")[0]


def spoil(path, *lines: bytes):
    """Put further lines into a file."""
    with open(path, "ab") as stream:
        stream.write(b"".join(line + b"\n" for line in lines))


def test_a_few_bad_records_go_to_quarantine_with_their_reasons(tmp_path, source):
    bad = (
        b'{"text": ', b'{"text": null}', b'[1, 2]', '{"text": "\u00e9"}'.encode("latin-1"), b'{"text": "\\ud800 half"}',
        b"[" * 100_000, b'{"text": ' + b"9" * 5000 + b"}",
    )
    spoil(tmp_path / "text.jsonl", *bad)
    clean = published(tmp_path, source | {"text": []}, name="clean")
    artifact = published(tmp_path, source | {"max_bad": 0.1})
    assert artifact.metrics["quarantined"] == {str(tmp_path / "text.jsonl"): len(bad)}
    kept = rows(artifact, "quarantine")
    reasons = ("not JSON (Expecting value", "'text' holds a null", "expected an object", "not UTF-8", "lone surrogate",
               "nested too deep", "too many digits")
    assert [reason in row["reason"] for reason, row in zip(reasons, kept, strict=True)] == [True] * len(bad), kept
    assert [row["reason"].split(":")[1] for row in kept] == [str(204 + k) for k in range(len(bad))]
    assert max(len(row["record"]) for row in kept) <= 2000
    assert len(rows(artifact, "text_train")) + len(rows(artifact, "text_validation")) == 200
    assert "quarantined" not in clean.metrics and not (clean.path / "quarantine.jsonl").exists()


def test_a_limit_does_not_hide_bad_records(tmp_path, source):
    lines = (tmp_path / "tasks.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "tasks.jsonl").write_text("".join("{bad\n" * 3 + line for line in lines))
    source["instructions"] = [{**source["instructions"][0], "max_records": 100}]
    with pytest.raises(DataError, match=r"tasks.jsonl:1: malformed line, .*; 300 of 400 records of .* are bad"):
        published(tmp_path, source)


def test_an_empty_file_beside_a_good_one_is_refused(tmp_path, source):
    (tmp_path / "empty.jsonl").write_text("")
    source["text"].append({"files": [str(tmp_path / "empty.jsonl")], "lang": "en"})
    with pytest.raises(DataError, match=r"empty.jsonl: holds no records"):
        published(tmp_path, source)


def test_a_file_of_two_sources_is_judged_each_time_by_itself(tmp_path, source):
    spoil(tmp_path / "text.jsonl", b"{")
    source["text"] = [source["text"][0] | {"weight": 2}, source["text"][0]]
    assert published(tmp_path, source).metrics["quarantined"] == {str(tmp_path / "text.jsonl"): 2}


def test_too_many_bad_records_are_an_error_with_the_first_reason(tmp_path, source):
    spoil(tmp_path / "tasks.jsonl", *[b'{"instruction": 7, "output": "x"}'] * 3)
    said = (r"tasks.jsonl:203: column 'instruction' holds a int, expected text; 3 of 205 records of .*tasks.jsonl are "
            r"bad, more than source.max_bad = 0.01")
    with pytest.raises(DataError, match=said):
        published(tmp_path, source)
    assert not (tmp_path / "data").exists()
