"""Where a worker stands is in a file, and one that does not go on ends."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from rlhf.training.standing import Position, Standing, position_in
from tests.limits import wait_until

STANDS = """
import sys, time
from pathlib import Path
from rlhf.training.standing import Standing
standing = Standing(Path(sys.argv[1]), 0.2)
standing.enter("update", 8)
for _ in range(3):
    standing.goes_on()
with standing.watched():
    time.sleep(3600)
"""


def test_a_position_is_read_as_it_was_entered(tmp_path: Path) -> None:
    standing = Standing(tmp_path / "00001.json", 10.0)
    assert position_in(tmp_path / "00001.json") == Position("start", 0, os.getpid())
    words = []
    for phase, step in (("start", 0), ("update", 8), ("validation", 8), ("checkpoint", 8)):
        standing.enter(phase, step)
        found = position_in(tmp_path / "00001.json")
        assert found == Position(phase, step, os.getpid())
        words.append(str(found))
    assert words == ["its start", "the update of step 8", "the validation after step 8", "the checkpoint of step 8"]


def test_what_is_no_position_is_none(tmp_path: Path) -> None:
    path = tmp_path / "00000.json"
    assert position_in(path) is None
    for content in ("", "{", "[]", '{"phase": "update"}', '{"other": 1}'):
        path.write_text(content)
        assert position_in(path) is None, content


def test_a_directory_that_is_not_there_stops_nobody(tmp_path: Path) -> None:
    Standing(tmp_path / "gone" / "00000.json", 10.0).enter("update", 1)
    assert not (tmp_path / "gone").exists()


def test_a_process_that_does_not_go_on_ends_and_says_where(tmp_path: Path) -> None:
    path = tmp_path / "00000.json"
    ended = subprocess.run([sys.executable, "-c", STANDS, str(path)], check=False)
    assert ended.returncode == -9
    found = position_in(path)
    assert found is not None and (found.phase, found.step) == ("update", 8)
    assert found.stood_s is not None and found.stood_s > 0.25
    assert found.passes == 3


def test_whoever_goes_on_is_left_alone(tmp_path: Path) -> None:
    """By a clock of the test: each pass comes just before a quarter more than the deadline is over."""
    now, ended = [0.0], threading.Event()
    standing = Standing(tmp_path / "00000.json", 0.05, clock=lambda: now[0])
    with standing.watched(ended.set):
        for _ in range(20):
            now[0] += 0.06
            assert not ended.wait(0.01)
            standing.goes_on()
        standing.enter("checkpoint", 3)
        now[0] += 1000.0
        assert not ended.wait(0.05), "storage takes as long as it takes"
        standing.enter("update", 4)
        now[0] += 0.07
        wait_until(ended.is_set)
    found = position_in(tmp_path / "00000.json")
    assert found is not None and found.stood_s is not None
