"""Nothing depends on the wall clock: a run, its lock and its watchdog under one that is set back and forth."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

from tests.faults.faults import build
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
WALL_CLOCK = {
    "time.time", "time.time_ns", "time.ctime", "time.localtime", "time.gmtime", "datetime.now", "datetime.utcnow",
    "datetime.today", "datetime.datetime.now", "date.today",
}
FOR_PEOPLE = {
    ("rlhf/lock.py", "time.time"), ("rlhf/lock.py", "time.localtime"),  # since when a run holds its lock
    ("rlhf/events.py", "time.time"), ("rlhf/watch/view.py", "time.time"),  # what `rlhf watch` shows
    ("rlhf/watch/view.py", "time.localtime"),
    ("rlhf/telemetry.py", "time.time"),  # what Prometheus is told
}
CHANGED = ("st_mtime", "st_mtime_ns", "st_ctime")


def outcome(directory: Path, library: Path | None) -> dict:
    """What `live_under_a_clock.py` found."""
    directory.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    if library is not None:
        environment["LD_PRELOAD"] = str(library)
    script = Path(__file__).with_name("live_under_a_clock.py")
    done = subprocess.run(
        [sys.executable, str(script), str(directory)], env=environment, capture_output=True, text=True, timeout=HANG_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    return json.loads(line.removeprefix("found "))


def test_a_run_a_lock_and_a_watchdog_do_not_notice_a_clock_that_jumps(tmp_path: Path) -> None:
    library = build(tmp_path, Path(__file__).with_name("clock.cpp"))
    plain, jumping = outcome(tmp_path / "plain", None), outcome(tmp_path / "jumping", library)
    assert (plain.pop("the clock went"), jumping.pop("the clock went")) == ([False, False], [True, True])
    assert jumping == plain
    assert [row["step"] for row in jumping["run"]["rows"]] == list(range(1, 9))
    assert jumping["run"]["checkpoints"] == ["step_000006", "step_000008"]
    assert jumping["run"]["times are sound"]
    assert jumping["watchdog"] == {"acted": True, "when moving": False, "after its deadline": True}
    assert jumping["lock"] == ["WORK: in use by process PID", "WORK: the run of process PID", "taken"]


def test_no_source_asks_what_time_it_is_but_to_tell_people() -> None:
    found = set()
    for path in sorted([*ROOT.glob("rlhf/**/*.py"), *ROOT.glob("actors/**/*.py")]):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCK:
                found.add((str(path.relative_to(ROOT)), ast.unparse(node)))
            is_shown = path.parent.name == "watch"
            assert is_shown or not (isinstance(node, ast.Attribute) and node.attr in CHANGED), path
            if isinstance(node, ast.ImportFrom) and node.module == "time":
                assert not {name.name for name in node.names} & {"time", "time_ns", "localtime"}, path
    assert found == FOR_PEOPLE
