"""Rows travel from a growing file to metrics.jsonl, TensorBoard and the progress display."""

import time

from rlhf.context import RunContext
from rlhf.metrics import read_json_lines
from rlhf.training.curve import Curve, following
from rlhf.training.pace import Paced
from tests.limits import wait_until


class Shown:
    def __init__(self):
        self.steps = []

    def step(self, label, done, total, numbers):
        self.steps.append((label, done, total, dict(numbers)))


def test_rows_are_recorded_while_they_are_written(tmp_path):
    shown = Shown()
    context = RunContext("sft", tmp_path / "sft", "hash", {}, shown)
    path = tmp_path / "reports.jsonl"
    with following(path, Curve(context, "sft", 20), lambda: None):
        append(path, '{"step": 10, "loss": 2.0, "epoch": 0.5}\n')
        wait_until(lambda: shown.steps)
        append(path, '{"step": 15, "lo')
        time.sleep(0.5)
        assert len(shown.steps) == 1, "half a line is no row"
        append(path, 'ss": 1.5}\n')
        append(path, '{"step": 20, "loss": 1.0, "validation_loss": 1.25}\n')
    rows = read_json_lines(context.work / "metrics.jsonl")
    assert [row["step"] for row in rows] == [10, 15, 20]
    assert shown.steps[0] == ("sft", 10, 20, {"loss": 2.0})
    assert shown.steps[-1] == ("sft", 20, 20, {"loss": 1.0, "validation_loss": 1.25})
    assert list((context.work / "tensorboard").iterdir())


def test_steps_that_come_again_replace_the_old_ones(tmp_path):
    context = RunContext("sft", tmp_path / "sft", "hash", {}, Shown())
    curve = Curve(context, "sft", 20)
    curve.restore([{"step": 5, "loss": 9.0}])
    for step, loss in ((10, 3.0), (15, 2.0), (10, 1.0)):
        curve.add({"step": step, "loss": loss})
    curve.close()
    rows = read_json_lines(context.work / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(5, 9.0), (10, 1.0)]


class Watching:
    def __init__(self):
        self.told = []

    def begin(self, *said):
        self.told.append(said)

    def write(self, step, numbers):
        self.told.append((step, dict(numbers)))


def test_who_watches_is_told_where_a_job_goes_on_and_then_each_row(tmp_path):
    context, watching = RunContext("sft", tmp_path / "sft", "hash", {}, Shown()), Watching()
    curve = Curve(context, "sft", 20, [watching], restarts=2)
    curve.restore([{"step": 5, "loss": 9.0}])
    curve.add({"step": 10, "loss": 3.0})
    curve.close()
    assert watching.told == [(5, 20, 2), (10, {"loss": 3.0})]


def test_the_pace_is_that_of_the_steps_since_it_was_last_told():
    """Not of rows that came in one look, nor across a return to a checkpoint."""
    watching, clock = Watching(), iter([100.0, 102.0, 102.1, 104.0, 130.0, 131.0])
    paced = Paced(watching, tokens_per_step=50.0, now=lambda: next(clock))
    for step in (10, 14, 15, 18, 11, 12):
        paced.write(step, {"loss": 1.0})
    assert [numbers.get("throughput/tokens_per_s") for _, numbers in watching.told] == [
        None, 100.0, None, 100.0, None, 50.0,
    ]


def test_rows_that_nobody_read_before_a_kill_are_not_lost(tmp_path):
    shown = Shown()
    context = RunContext("sft", tmp_path / "sft", "hash", {}, shown)
    path = tmp_path / "reports.jsonl"
    # the workers outlived the driver for a moment
    append(path, '{"step": 10, "loss": 3.0}\n{"step": 15, "loss": 2.0}\n{"step": 20, "lo')
    with following(path, Curve(context, "sft", 20), lambda: None):
        append(path, '{"step": 15, "loss": 2.0}\n{"step": 20, "loss": 1.0}\n')
    rows = read_json_lines(context.work / "metrics.jsonl")
    assert [(row["step"], row["loss"]) for row in rows] == [(10, 3.0), (15, 2.0), (20, 1.0)]
    assert [done for _, done, _, _ in shown.steps] == [15, 20], "old rows are not shown again"


def append(path, text):
    with open(path, "a") as stream:
        stream.write(text)
