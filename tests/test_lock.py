"""One run at a time in a directory, and what a dead one left is no obstacle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf.errors import RunError
from rlhf.lock import LOCK, locked
from tests.limits import HANG_S

HOLD = """
import sys, time
from pathlib import Path
from rlhf.lock import locked
with locked(Path(sys.argv[1]), print):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(work: Path) -> subprocess.Popen:
    """Another process that holds the directory."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(work)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_with_the_first_ones_name(tmp_path: Path) -> None:
    other = hold(tmp_path / "work")
    try:
        with pytest.raises(RunError) as refused, locked(tmp_path / "work", print):
            pass
        said = str(refused.value)
        assert said.startswith(f"{tmp_path}/work: in use by process {other.pid} on {os.uname().nodename} since 20")
        assert said.endswith("; wait until it has ended, stop it, or give another output")
    finally:
        other.kill()
        other.wait()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_what_a_dead_run_left_is_told_and_taken(tmp_path: Path, how: signal.Signals) -> None:
    other = hold(tmp_path / "work")
    other.send_signal(how)
    other.wait()
    notes: list[str] = []
    with locked(tmp_path / "work", notes.append):
        assert len(notes) == 1 and f"the run of process {other.pid} on " in notes[0]
        assert notes[0].endswith("ended without a word; going on from what it has kept")
    with locked(tmp_path / "work", notes.append):
        assert len(notes) == 1  # this one has ended in order


def test_a_lock_file_of_anything_is_no_obstacle(tmp_path: Path) -> None:
    known = f'"pid": 1, "host": "{os.uname().nodename}"'
    anything = ("", "nothing", "[]", '{"pid": 1}', "[" * 9000, "\ud800", f'{{{known}, "since": 1e300}}',
                f'{{{known}, "since": "noon"}}')
    for content in anything:
        (tmp_path / LOCK).write_text(content, errors="surrogatepass")
        with locked(tmp_path, lambda said: pytest.fail(said)):
            assert str(os.getpid()) in (tmp_path / LOCK).read_text()
        assert (tmp_path / LOCK).read_text() == ""


RACE = """
import os, sys
from pathlib import Path
from rlhf.errors import RunError
from rlhf.ownership import own

directory, flag = Path(sys.argv[1]), Path(sys.argv[1] + ".held")
counts = {"held": 0, "refused": 0}
print("ready", flush=True)
sys.stdin.readline()
while counts["held"] < 30:
    try:
        with own(directory, print):
            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))  # fails where another holds the directory, too
            counts["held"] += 1
            (directory / "config.yaml").write_text("mine")
            assert (directory / "config.yaml").is_file() and (directory / "lock").is_file()
            flag.unlink()
            raise RunError("refused: the directory goes")
    except RunError as error:
        counts["refused"] += "in use by" in str(error)
print(counts["held"], counts["refused"])
"""


def test_first_starts_at_one_instant_do_not_remove_each_others_directory(tmp_path: Path) -> None:
    """Four processes make, hold and remove one directory again and again: never two at once, never from under another.
    """
    command = [sys.executable, "-c", RACE, str(tmp_path / "work")]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    racing = [subprocess.Popen(command, **pipes, text=True) for _ in range(4)]
    for process in racing:
        assert process.stdout.readline() == "ready\n", process.communicate()
    for process in racing:
        process.stdin.write("go\n")
        process.stdin.flush()
    times = 0
    for process in racing:
        said, wrong = process.communicate(timeout=HANG_S)
        assert process.returncode == 0, wrong
        held, refused = map(int, said.split())
        assert held == 30
        times += refused
    assert times > 30  # they did meet


def test_a_lock_that_cannot_be_made_is_no_endless_attempt(tmp_path: Path) -> None:
    (tmp_path / LOCK).symlink_to("nowhere/at/all")
    with pytest.raises(RunError, match="no lock can be made in it"), locked(tmp_path, print):
        pass
