"""Generated data files through `rlhf data`: published whole, or refused in a sentence; nothing half made stays."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import artifacts, cli
from rlhf.data.readers import read_records

KINDS = {
    "text": {"text": "a document that is long enough to stay"},
    "instructions": {"instruction": "say", "input": "", "output": "x"},
    "preferences": {"prompt": "say", "chosen": "x", "rejected": "y"},
}
OUTPUTS = {"text": "text_train", "instructions": "sft_train", "preferences": "preference_train"}
ODD_TEXTS = (
    "", " ", "\u2028 line \u2029 separators \u0085", "\ud800", "\x00", "\ufeff mark", "雪" * 50, "a" * 20_000, "\r",
    "\t", "<|im_end|>", "\ufffe\uffff", "e\u0301" * 30, "\u202e right to left",
)
odd_values = st.sampled_from((*ODD_TEXTS, None, 1, 1.5, [], {}, [None], {"a": None}, True, [{"role": "user"}]))
JUNK = (
    b"", b"{", b"}", b"null", b"[1]", b'"text"', b"\xff\xfe\x00", b"\x80abc", b'{"text": NaN}', b"[" * 2000,
    b'{"a":' * 500, b'{"text": "a"} {"text": "b"}', b"{'text': 'a'}", b"\x00\x00", b'{"text": 1e999}',
    b'{"text": ' + b"1" * 5000 + b"}",
)


@st.composite
def lines(draw: st.DrawFn, kind: str) -> list[bytes]:
    """Good records, records with something odd in them, and junk."""
    found = []
    for k in range(draw(st.integers(0, 12))):
        record = {key: f"{value} {draw(st.integers(0, 9))}" for key, value in KINDS[kind].items()} | {"id": k % 3}
        what = draw(st.sampled_from(("good",) * 6 + ("odd", "missing", "nested", "junk")))
        if what == "odd":
            record[draw(st.sampled_from(sorted(KINDS[kind])))] = draw(odd_values)
        elif what == "missing":
            del record[draw(st.sampled_from(sorted(KINDS[kind])))]
        elif what == "nested":
            record["messages"] = draw(odd_values)
        found.append(draw(st.sampled_from(JUNK)) if what == "junk" else json.dumps(record).encode())
    return found


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, bytes]:
    """Kind, file name and content; the whole may be damaged, too."""
    kind = draw(st.sampled_from(sorted(KINDS)))
    content = draw(st.sampled_from((b"\n", b"\r\n", b"\n\n"))).join(draw(lines(kind)))
    name = draw(st.sampled_from(("a.jsonl", "a.jsonl", "a.jsonl.gz", "a.json", "a.csv", "a.txt", "a.parquet", "a")))
    damage = draw(st.sampled_from(("none", "none", "none", "mark", "cut", "utf-16", "latin-1", "flip", "list")))
    if damage == "mark":
        content = b"\xef\xbb\xbf" + content
    elif damage in ("utf-16", "latin-1"):
        content = content.decode("utf-8", "replace").encode(damage, "replace")
    elif damage == "list":
        content = b"[" + b",".join(content.splitlines()) + b"]"
    if name.endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    if damage == "cut":
        content = content[: draw(st.integers(0, len(content)))]
    elif damage == "flip" and content:
        place = draw(st.integers(0, len(content) - 1))
        content = content[:place] + bytes([content[place] ^ (1 << draw(st.integers(0, 7)))]) + content[place + 1 :]
    return kind, name, content


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


def test_any_file_is_published_whole_or_refused(directory: Path) -> None:
    ends = {0: 0, 2: 0}

    @settings(max_examples=2000)
    @given(files(), st.sampled_from((0.0, 0.01, 0.5, 0.99)))
    def one(file: tuple[str, str, bytes], max_bad: float) -> None:
        kind, name, content = file
        path, output = directory / name, directory / "out"
        path.write_bytes(content)
        source = {"kind": "files", kind: [{"files": [str(path)], "lang": "en"}], "validation": 0.3, "max_bad": max_bad}
        config = directory / "config.yaml"
        config.write_text(yaml.safe_dump({"output": str(output), "source": source}))
        said = io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()), \
                pytest.raises(SystemExit) as ended:
            cli.main(["data", str(config)])
        code = ended.value.code or 0
        ends[code] += 1
        if code == 0:
            require_whole(output, kind)
        else:
            (line,) = said.getvalue().splitlines()
            assert line.startswith("rlhf: ") and "Traceback" not in line and len(line) < 1500
            left = {entry.name for entry in directory.iterdir()} - {name, "config.yaml"}
            assert not left, left
        path.unlink()
        shutil.rmtree(output, ignore_errors=True)
        shutil.rmtree(directory / "out.work", ignore_errors=True)

    one()
    assert ends[0] > 100 and ends[2] > 300, ends


def require_whole(output: Path, kind: str) -> None:
    """Every file is as the manifest says, and what later stages read can be read; what is bad has a reason."""
    manifest = artifacts.load(output).manifest
    assert {name: artifacts.file_digest(output / name) for name in manifest.files} == dict(manifest.files)
    assert list(read_records(output / f"{OUTPUTS[kind]}.jsonl"))
    bad = sum(manifest.metrics.get("quarantined", {}).values())
    kept = list(read_records(output / "quarantine.jsonl")) if bad else []
    assert len(kept) == bad and all(record["reason"] for _, record in kept)
