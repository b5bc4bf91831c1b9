"""Generated data files through `rlhf data`: published whole, or refused in a sentence; nothing half made stays."""

from __future__ import annotations

import contextlib
import io
import shutil
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import artifacts, cli
from rlhf.data.readers import read_records
from tests.fuzz.generated import files

OUTPUTS = {"text": "text_train", "instructions": "sft_train", "preferences": "preference_train"}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.mark.parametrize("count", [400, pytest.param(2000, marks=pytest.mark.exhaustive)])
def test_any_file_is_published_whole_or_refused(directory: Path, count: int) -> None:
    ends = {0: 0, 2: 0}

    @settings(max_examples=count)
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
    assert ends[0] > count / 40 and ends[2] > count / 7, ends


def require_whole(output: Path, kind: str) -> None:
    """Every file is as the manifest says, and what later stages read can be read; what is bad has a reason."""
    manifest = artifacts.load(output).manifest
    assert {name: artifacts.file_digest(output / name) for name in manifest.files} == dict(manifest.files)
    assert list(read_records(output / f"{OUTPUTS[kind]}.jsonl"))
    bad = sum(manifest.metrics.get("quarantined", {}).values())
    kept = list(read_records(output / "quarantine.jsonl")) if bad else []
    assert len(kept) == bad and all(record["reason"] for _, record in kept)
