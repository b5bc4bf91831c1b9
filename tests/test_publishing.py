"""Drafts of artifacts: none stays, and none is another's."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlhf import artifacts


def publish(path: Path):
    return artifacts.publishing(path, "stage", "config", {})


def test_what_a_given_up_process_writes_on_is_in_no_later_artifact(tmp_path: Path) -> None:
    """Of a draft it knows only its path; the next attempt fills another."""
    with pytest.raises(ConnectionError), publish(tmp_path / "model") as first:
        raise ConnectionError
    with publish(tmp_path / "model") as second:
        (second.path / "weights").write_text("whole")
        first.path.mkdir()
        (first.path / "weights").write_text("half")
    assert (tmp_path / "model" / "weights").read_text() == "whole"
    assert artifacts.load(tmp_path / "model").manifest.files.keys() == {"weights"}


def test_drafts_that_killed_runs_have_left_go_and_those_of_other_outputs_stay(tmp_path: Path) -> None:
    for left in (".model.0123abcd.draft", ".model.b.0123abcd.draft", ".mode.0123abcd.draft", ".model.draft"):
        (tmp_path / left).mkdir()
    with publish(tmp_path / "model"):
        pass
    found = {path.name for path in tmp_path.iterdir()}
    assert found == {"model", ".model.b.0123abcd.draft", ".mode.0123abcd.draft", ".model.draft"}
