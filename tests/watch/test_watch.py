"""`rlhf watch` reads a run directory alone: finished, under way, stopped, half written, vanishing."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlhf.errors import RunError
from rlhf.events import Remembering, add_event, read_events
from rlhf.progress import LineProgress
from rlhf.watch.files import Growing
from rlhf.watch.live import watch
from rlhf.watch.state import Seen, Watched
from rlhf.watch.view import LEVELS, duration, show, sparkline, stage_at_hand
from tests.limits import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
NOW = 1_000_000.0


def row(step: int, **numbers: float) -> dict[str, float]:
    times = {"time/rollout": 1.5, "time/update": 0.5, "time/step": 2.0}
    return {"step": step, "reward/score": step / 10, "kl/per_response": 0.5, **times, **numbers}


def lines(rows: list[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(each) + "\n" for each in rows)


def make_work(output: Path, rows: list[dict[str, float]], total: int = 20, holder: int | None = None) -> Path:
    """The work directory of a PPO stage; `holder` is the process that its lock names."""
    work = output.with_name(output.name + ".work")
    work.mkdir(parents=True)
    (work / "metrics.jsonl").write_text(lines(rows))
    holds = {"pid": holder, "host": socket.gethostname(), "since": NOW}
    (work / "lock").write_text(json.dumps(holds) if holder else "")
    add_event(work, begins_after=0)
    add_event(work, label="ppo", done=1, total=total)
    return work


def publish(output: Path) -> None:
    output.mkdir(parents=True)
    (output / "manifest.json").write_text(json.dumps({"stage": output.name, "metrics": {}}, indent=2))


def text_of(stages: list[Seen], now: float = NOW) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    console.print(show("runs/demo", stages, now))
    return console.file.getvalue()


def once(run: Path) -> str:
    console = Console(file=io.StringIO(), width=120, color_system=None)
    watch(run, once=True, console=console)
    return console.file.getvalue()


def test_a_pipeline_shows_every_stage_and_the_one_that_runs_in_full(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("run_dir: x\nstages: {data: {}, sft: {}, ppo: {}, report: {}}\n")
    publish(tmp_path / "data")
    make_work(tmp_path / "sft", [], holder=2**22 + 1)  # no such process: it was killed
    work = make_work(tmp_path / "ppo", [row(step) for step in range(1, 6)], holder=os.getpid())
    (work / "checkpoints" / "step_000004").mkdir(parents=True)
    add_event(work, begins_after=4)
    add_event(work, note="policy[0] was lost in step 5, update: SIGKILL")
    os.utime(work / "metrics.jsonl", (NOW, NOW))
    text = text_of(Watched(tmp_path).look(), NOW + 7)
    assert re.search(r"^data +done", text, re.MULTILINE) and re.search(r"^report +-", text, re.MULTILINE)
    assert re.search(r"^sft +! stopped +0/20 +the same command goes on", text, re.MULTILINE)
    assert re.search(r"^ppo +> now +5/20 +30 s left", text, re.MULTILINE)
    assert f"ppo, step 5 of 20, 2 s a step, last step 7 s ago, begun anew 1 time, process {os.getpid()} on" in text
    assert re.search(rf"^reward +0\.5 +{LEVELS[0]}.*{LEVELS[-1]}", text, re.MULTILINE)
    assert "phases of the last step  rollout 1.50 s (75%)  update 0.50 s (25%)" in text
    assert "newest checkpoint  checkpoints/step_000004" in text
    assert "policy[0] was lost in step 5, update: SIGKILL" in text


@pytest.mark.parametrize("name", ["ppo", "ppo.work", "."])
def test_a_stage_is_found_by_its_output_its_work_and_what_both_lie_in(tmp_path: Path, name: str) -> None:
    make_work(tmp_path / "ppo", [row(1)])
    (seen,) = Watched(tmp_path / name).look()
    assert (seen.name, seen.state, seen.step, seen.total) == ("ppo", "stopped", 1, 20)


def test_a_finished_run_is_printed_once_and_in_plain_words(tmp_path: Path) -> None:
    publish(tmp_path / "ppo")
    make_work(tmp_path / "ppo", [row(1), row(2)])
    command = [sys.executable, "-m", "rlhf", "watch", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=True)
    assert "\x1b" not in done.stdout
    assert re.search(r"^ppo +done +2/20", done.stdout, re.MULTILINE)


def test_live_it_follows_the_run_until_the_run_has_ended(tmp_path: Path) -> None:
    work = make_work(tmp_path / "ppo", [row(1)], total=3, holder=os.getpid())
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    watching = threading.Thread(target=watch, args=(tmp_path, False, 0.02, console))
    watching.start()
    for step in (2, 3):
        wait_until(lambda step=step: f" {step - 1}/3" in console.file.getvalue())
        with open(work / "metrics.jsonl", "a") as stream:
            stream.write(lines([row(step)]))
    wait_until(lambda: " 3/3" in console.file.getvalue())
    assert watching.is_alive()
    (work / "lock").write_text("")
    publish(tmp_path / "ppo")
    watching.join(HANG_S)
    assert not watching.is_alive()
    assert "done" in console.file.getvalue()


def test_what_is_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run in it; give a pipeline's run directory"):
        Watched(tmp_path)
    with pytest.raises(RunError, match="no such directory"):
        Watched(tmp_path / "absent")


def test_files_that_vanish_or_hold_nonsense_leave_the_rest(tmp_path: Path) -> None:
    work = make_work(tmp_path / "ppo", [row(1), row(2)])
    watched = Watched(tmp_path)
    assert watched.look()[0].step == 2
    for name in ("metrics.jsonl", "events.jsonl", "lock"):
        (work / name).unlink()
    assert watched.look()[0].step == 0
    (work / "metrics.jsonl").write_bytes(b'[1]\nnull\n{"step": "x"}\n\xff\xfe\n' + lines([row(3)]).encode())
    (work / "lock").write_text('{"pid": "many", "host"')
    (work / "events.jsonl").write_bytes(b"\x00\n" + b'{"total": "x"}\n')
    seen = watched.look()[0]
    assert (seen.step, seen.total, seen.state) == (3, None, "stopped")
    assert "reward" in text_of([seen])


HERE = socket.gethostname()
NOBODY = (
    "", "nothing", "[1]", "3", '"x"', "null", "{}", "[" * 9000, '{"pid": 1}',
    *(json.dumps({"pid": pid, "host": HERE, "since": NOW}) for pid in (None, [1], "1", {}, True, 0, -1, 2**40, 1.5)),
    *(json.dumps({"pid": 1, "host": HERE, "since": since}) for since in (None, "noon", [], 1e300, float("nan"))),
    *(json.dumps({"pid": 1, "host": host, "since": NOW}) for host in (None, 3, "\ud800")),
)


@pytest.mark.parametrize("content", NOBODY)
def test_a_lock_that_names_nobody_is_held_by_nobody(tmp_path: Path, content: str) -> None:
    work = make_work(tmp_path / "ppo", [row(1)])
    (work / "lock").write_text(content)
    assert [seen.state for seen in Watched(tmp_path).look()] == ["stopped"]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=()), max_size=5)
    | st.sampled_from([10**400, "\ud800", "\x00"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner, max_size=2), max_leaves=3,
)
OF_FILES = {
    "lock": ("pid", "host", "since"), "events.jsonl": ("time", "note", "total", "done", "begins_after"),
    "metrics.jsonl": ("step", "loss", "reward/score", "time/step", "time/update"),
}


@given(st.data())
def test_any_content_of_a_run_is_shown(data: st.DataObject) -> None:
    """JSON of anything where the run has its own, and what is shown can be written to a terminal."""
    import tempfile

    with tempfile.TemporaryDirectory() as directory:
        work = make_work(Path(directory) / "ppo", [row(1), row(2)], holder=os.getpid())
        for name, keys in OF_FILES.items():
            lines = data.draw(st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, ANYTHING)), max_size=3))
            (work / name).write_text("\n".join(map(json.dumps, lines)) + "\n")
        once(Path(directory)).encode()


@given(st.lists(st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)), max_size=8), st.data())
def test_a_growing_file_is_read_as_far_as_its_lines_are_whole(rows: list[dict], data: st.DataObject) -> None:
    """Cut anywhere, read, and completed: every row once, none of half a line."""
    import tempfile

    content = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=4)))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "rows.jsonl"
        growing = Growing(path)
        assert growing.refresh() == []
        for cut in [*cuts, len(content)]:
            path.write_bytes(content[:cut]) if not path.exists() else _extend(path, content[:cut])
            assert growing.refresh() == rows[: content[:cut].count(b"\n")]


def _extend(path: Path, content: bytes) -> None:
    with open(path, "ab") as stream:
        stream.write(content[path.stat().st_size:])


def test_a_file_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines([row(step) for step in range(1, 5)]))
    growing = Growing(path)
    assert len(growing.refresh()) == 4
    (tmp_path / "new").write_text(lines([row(1), row(2), row(3), row(9), row(10)]))  # longer than what was read
    (tmp_path / "new").replace(path)
    assert [each["step"] for each in growing.refresh()] == [1, 2, 3, 9, 10]


def test_time_left_without_times_of_steps_comes_from_when_the_stage_began() -> None:
    """A training stage logs every tenth step, and no times."""
    events = [{"time": NOW, "label": "sft", "done": 100, "total": 800}]
    rows = [{"step": step, "loss": 1.0} for step in range(10, 310, 10)]
    seen = Seen("sft", "running", rows=rows, events=events, changed=NOW + 50.0)
    assert seen.seconds_per_step() == 0.25 and seen.seconds_left() == 125.0
    assert Seen("sft", "running", rows=rows[:5], events=events, changed=NOW).seconds_left() is None


def test_the_stage_at_hand_is_the_running_one_else_a_stopped_one_else_ppo() -> None:
    ppo = Seen("ppo", "finished", rows=[row(1)])
    sft, evaluate = Seen("sft", "finished", rows=[{"step": 1, "loss": 2.0}]), Seen("evaluate", "finished")
    assert stage_at_hand([sft, ppo, evaluate]) is ppo
    assert stage_at_hand([sft, evaluate]) is sft
    assert stage_at_hand([evaluate]) is None
    stopped, running = Seen("pairs", "stopped"), Seen("reward", "running")
    assert stage_at_hand([stopped, ppo]) is stopped
    assert stage_at_hand([stopped, running, ppo]) is running


@pytest.mark.parametrize(
    ("values", "line"),
    [([], ""), ([1.0], "▁"), ([2.0, 2.0], "▁▁"), ([0.0, 1.0, float("nan"), 0.5], "▁█ ▅"), ([float("inf")], ""),
     ([-1.7e308, 1.7e308, 0.0], "▁█▅")],
)
def test_sparklines(values: list[float], line: str) -> None:
    assert sparkline(values) == line


@given(st.lists(st.floats(), max_size=60))
def test_a_sparkline_takes_any_numbers(values: list[float]) -> None:
    assert len(sparkline(values)) in (0, min(40, len(values)))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, ""), (float("inf"), ""), (7.4, "7 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (3720, "1 h 02 min")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_notes_and_the_number_of_steps_are_kept_and_still_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    progress = Remembering(LineProgress(), tmp_path)
    progress.note("评测 began")
    progress.step("sft", 10, 800, {"loss": 1.0})
    progress.step("sft", 20, 800, {"loss": 1.0})
    assert capsys.readouterr().out.splitlines() == ["评测 began", "sft 10/800  loss 1", "sft 20/800  loss 1"]
    kept = [{key: value for key, value in event.items() if key != "time"} for event in read_events(tmp_path)]
    assert kept == [{"note": "评测 began"}, {"label": "sft", "done": 10, "total": 800}]
    Remembering(LineProgress(), tmp_path / "absent").note("nowhere to keep it")
    assert not (tmp_path / "absent").exists()
