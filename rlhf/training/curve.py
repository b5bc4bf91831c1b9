"""The driver's side of reporting: the rows that rank 0 appends to a file → metrics.jsonl, TensorBoard, progress, and
whoever else watches."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf import metrics
from rlhf.artifacts import write_bytes
from rlhf.context import RunContext
from rlhf.training.following import tailing

_SHOWN = ("loss", "accuracy", "validation_loss", "validation_accuracy", "learning_rate", "grad_norm")


class Curve:
    """Writes and shows the rows of a job, which has been begun anew `restarts` times.

    When a step comes again, because workers went on from a checkpoint, the rows from there on are replaced.
    """

    def __init__(
        self, context: RunContext, label: str, total_steps: int, watchers: Sequence[metrics.Watcher] = (),
        restarts: int = 0,
    ) -> None:
        self._context = context
        self._label = label
        self._total = total_steps
        self._watchers = watchers
        self._restarts = restarts
        self._sinks: list[metrics.MetricsSink] = []
        self._last = 0

    def restore(self, rows: Iterable[dict[str, Any]]) -> None:
        """Take over what an interrupted run had reported, without showing it again."""
        self._open(keep_through=0)
        for row in rows:
            self._write(row)
        for watcher in self._watchers:
            watcher.begin(self._last, self._total, self._restarts)

    def add(self, row: dict[str, Any]) -> None:
        """Write and show a row."""
        numbers = self._write(row)
        for watcher in self._watchers:
            watcher.write(self._last, numbers)
        shown = {key: numbers[key] for key in _SHOWN if key in numbers}
        self._context.progress.step(self._label, self._last, self._total, shown)

    def _write(self, row: dict[str, Any]) -> dict[str, float]:
        step = int(row["step"])
        numbers = {key: float(value) for key, value in row.items() if key != "step"}
        if step <= self._last:
            self._open(keep_through=step - 1)
        self._last = step
        for sink in self._sinks:
            sink.write(step, numbers)
        return numbers

    def _open(self, keep_through: int) -> None:
        self.close()
        work = self._context.work
        self._sinks = [
            metrics.JsonLines(work / "metrics.jsonl", keep_through),
            metrics.TensorBoard(work / "tensorboard", keep_through),
        ]

    def close(self) -> None:
        for sink in self._sinks:
            sink.close()
        self._sinks = []


@contextmanager
def following(path: Path, curve: Curve, on_failure: Callable[[], None]) -> Iterator[None]:
    """Feed the lines of a growing file to a curve while the block runs, and what is left when it ends. `on_failure` is
    called where that cannot go on, which is raised at the end.

    What the file holds already is an interrupted run's; a last line that was cut short is dropped.
    """
    rows = metrics.read_json_lines(path)
    curve.restore(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = "".join(json.dumps(row) + "\n" for row in rows).encode()
    write_bytes(path, whole)
    try:
        with tailing(path, len(whole), curve.add, on_failure):
            yield
    finally:
        curve.close()
