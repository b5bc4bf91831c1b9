"""A growing file of JSON lines is handed over line by line, and nothing of that is lost silently."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from rlhf.training.following import tailing
from rlhf.training.reporting import append_rows
from tests.limits import HANG_S


def test_an_error_of_who_takes_the_lines_is_raised_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "reports.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    taken: list[dict[str, Any]] = []

    def take(row: dict[str, Any]) -> None:
        taken.append(row)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = threading.Event()
    with pytest.raises(OSError, match="No space left"), tailing(path, 0, take, told.set):
        assert told.wait(HANG_S), "whoever writes the lines is to end, too"
    assert taken == [{"step": 1}], "what comes after it is left to the run that goes on"


def test_what_the_block_raises_comes_first(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="of the block"), tailing(tmp_path / "gone.jsonl", 0, lambda row: None):
        raise ValueError("of the block")


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path: Path) -> None:
    """A full disk takes the end of a line; the worker is started again and writes on."""
    path, taken = tmp_path / "reports.jsonl", []
    append_rows(path, [{"step": 1}], durably=False)
    with open(path, "a") as stream:
        stream.write('{"step": 2, "lo')
    append_rows(path, [{"step": 2}, {"step": 3}], durably=True)
    with tailing(path, 0, taken.append):
        pass
    assert taken == [{"step": 1}, {"step": 2}, {"step": 3}]
    assert path.read_text().count("\n") == 4
