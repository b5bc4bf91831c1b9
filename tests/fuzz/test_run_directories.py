"""Runs with one thing wrong in what they wrote: reported on, trained on again, or refused in one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.errors import DataError
from rlhf.ppo.rollout_file import read_rollout, write_rollout
from tests.fuzz.damage import JUNK, changed, flipped
from tests.fuzz.entry import command, require_one_sentence, without_ray
from tests.ppo import test_rollout_file as rollouts
from tests.report.synthetic import SyntheticRun

EXAMPLES = 100
FOREIGN = (
    {"a": [1]}, {"step": ["x"], "prompt": [None], "response": [b"\xff"]},
    {"step": [1], "prompt": [{}], "response": [2]},
    {"model": [3], "prompt": [[1, [2]]], "response": ["a"]}, {"step": [], "prompt": [], "response": []},
    {"model": ["base"], "prompt": [{"content": 3}], "response": ["\x00"], "gold": ["much"]},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return SyntheticRun(tmp_path_factory.mktemp("runs") / "demo").pipeline(prompts=4, steps=6).path


def damaged(path: Path, draw: st.DrawFn) -> bytes | None:
    """What the file holds instead; None: it is not there."""
    raw = path.read_bytes()
    how = draw(st.sampled_from(("value", "value", "cut", "flip", "junk", "missing")))
    if how == "cut":
        return raw[: draw(st.integers(0, len(raw) - 1))]
    if how == "flip":
        return flipped(raw, draw)
    if how == "junk":
        return draw(st.sampled_from(JUNK))
    return None if how == "missing" else other_value(path, draw)


def other_value(path: Path, draw: st.DrawFn) -> bytes:
    """One value is another one: in a mapping, in a line of one, or the whole table."""
    if path.suffix == ".parquet":
        foreign = path.with_name("foreign.parquet")
        try:
            pandas.DataFrame(draw(st.sampled_from(FOREIGN))).to_parquet(foreign)
        except pyarrow.ArrowException:  # parquet has no word for it
            return b""
        content = foreign.read_bytes()
        foreign.unlink()
        return content
    if path.suffix == ".json":
        return json.dumps(changed(json.loads(path.read_text()), draw)).encode()
    lines = path.read_text().splitlines()
    place = draw(st.integers(0, len(lines) - 1))
    if path.suffix == ".jsonl":
        lines[place] = json.dumps(changed(json.loads(lines[place]), draw))
    else:
        lines[place] = draw(st.sampled_from(("", "a: [", "- 1", "\t", "x: &a [*a]")))
    return "\n".join(lines).encode()


@pytest.fixture(autouse=True, scope="module")
def no_ray() -> Iterator[None]:
    with without_ray():
        yield


@pytest.mark.slow
def test_any_run_is_reported_on_or_refused_in_one_sentence(run: Path, tmp_path: Path) -> None:
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.stat().st_size)
    ends = {0: 0, 2: 0}

    @settings(max_examples=EXAMPLES)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(files))
        content = data.draw(st.composite(lambda draw: damaged(run / name, draw))())
        copy = tmp_path / "run"
        shutil.copytree(run, copy)
        if content is None:
            (copy / name).unlink()
        else:
            (copy / name).write_bytes(content)
        try:
            code, lines = command("report", {"run_dir": str(copy), "output": str(tmp_path / "out")}, tmp_path)
            require_one_sentence(code, lines)
            assert (tmp_path / "out" / "report.html").is_file() == (code == 0)
            ends[code] += 1
        finally:
            for left in (copy, tmp_path / "out", tmp_path / "out.work"):
                shutil.rmtree(left, ignore_errors=True)

    one()
    assert min(ends.values()) > 5, ends


def rewritten(path: Path, draw: st.DrawFn) -> None:
    """A saved rollout of which a column or the metadata is another."""
    table = pyarrow.parquet.read_table(path)
    if draw(st.booleans()):
        said = changed(json.loads(table.schema.metadata[b"rlhf"]), draw)
        table = table.replace_schema_metadata({"rlhf": json.dumps(said)})
    else:
        rows, name = table.to_pylist(), draw(st.sampled_from(table.column_names))
        values = (None, [], [1], [2**40], "", "{", "[1]", 0, -1, 2**62, True, [0.5], "null")
        rows[draw(st.integers(0, len(rows) - 1))][name] = draw(st.sampled_from(values))
        try:
            table = pyarrow.Table.from_pylist(rows, schema=table.schema)
        except (pyarrow.ArrowException, TypeError):
            table = table.drop_columns([name])
    pyarrow.parquet.write_table(table, path)


def test_any_saved_rollout_is_read_or_refused_in_one_sentence(tmp_path: Path) -> None:
    path, good = tmp_path / "step_000001.parquet", tmp_path / "good.parquet"
    write_rollout(good, rollouts.saved(True), ["x"] * 4)
    ends = {True: 0, False: 0}

    @settings(max_examples=500)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        shutil.copy(good, path)
        if data.draw(st.booleans()):
            data.draw(st.composite(lambda draw: rewritten(path, draw))())
        else:
            path.write_bytes(flipped(good.read_bytes(), data.draw))
        try:
            read_rollout(path, 0, rollouts.PARTS)
            ends[True] += 1
        except DataError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error) and len(str(error)) < 800
            ends[False] += 1

    one()
    assert min(ends.values()) > 20, ends
