"""Metrics as mergeable values, and the sinks that a step's metrics go to.

A mean is carried as (sum, count) until it is written, so a mean of means cannot happen however the
parts are split over micro-batches, ranks or engines.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlhf.artifacts import write_text


@dataclass(frozen=True)
class Mean:
    """A weighted mean: `sum` over `count` items."""

    sum: float
    count: float

    def merge(self, other: Mean) -> Mean:
        return Mean(self.sum + other.sum, self.count + other.count)

    @property
    def value(self) -> float:
        return self.sum / self.count if self.count else math.nan


@dataclass(frozen=True)
class Max:
    """A maximum; NaN wins, so that it cannot hide."""

    value: float

    def merge(self, other: Max) -> Max:
        return Max(math.nan if math.isnan(self.value) or math.isnan(other.value) else max(self.value, other.value))


@dataclass(frozen=True)
class Sum:
    """A total."""

    value: float

    def merge(self, other: Sum) -> Sum:
        return Sum(self.value + other.value)


Metric = Mean | Max | Sum
Metrics = Mapping[str, Metric]


def merge(parts: Iterable[Metrics]) -> dict[str, Metric]:
    """Merge metrics of the same name; raises TypeError when their kinds differ."""
    merged: dict[str, Metric] = {}
    for part in parts:
        for name, metric in part.items():
            if name in merged and type(merged[name]) is not type(metric):
                kinds = f"{type(merged[name]).__name__} and {type(metric).__name__}"
                raise TypeError(f"metric {name}: {kinds} do not merge")
            merged[name] = merged[name].merge(metric) if name in merged else metric  # type: ignore[arg-type]
    return merged


def values(metrics: Metrics) -> dict[str, float]:
    """The plain numbers of `metrics`. A mean over nothing is no number, and is left out."""
    return {name: float(metric.value) for name, metric in metrics.items() if not _is_of_nothing(metric)}


def _is_of_nothing(metric: Metric) -> bool:
    return isinstance(metric, Mean) and not metric.count


class MetricsSink(Protocol):
    """Where the numbers of a step go."""

    def write(self, step: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class Watcher(MetricsSink, Protocol):
    """Is told of a run while it goes on."""

    def begin(self, step: int, total: int, restarts: int) -> None:
        """The run goes on after `step` of `total`; it has been begun anew `restarts` times."""

    def enter(self, phase: str) -> None:
        """A phase of a step begins."""


class JsonLines:
    """`metrics.jsonl`: one object per step, in order, each step once.

    Steps after `keep_through` that an interrupted run left behind are dropped when the file is opened.
    """

    def __init__(self, path: Path, keep_through: int | None = None) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [row for row in read_json_lines(path) if keep_through is None or row["step"] <= keep_through]
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
        self._stream = open(path, "a", encoding="utf-8")  # noqa: SIM115 - lives as long as the sink

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        self._stream.write(json.dumps({"step": step, **numbers}) + "\n")
        self._stream.flush()
        os.fsync(self._stream.fileno())  # a checkpoint that follows counts on it

    def close(self) -> None:
        self._stream.close()


class TensorBoard:
    """TensorBoard event files in a directory of their own."""

    def __init__(self, directory: Path, purge_after: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if purge_after is None else purge_after + 1
        self._writer = SummaryWriter(str(directory), purge_step=purge_step)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def read_json_lines(path: Path) -> list[dict]:
    """Rows of a metrics file. A line that is none, such as a last one that a crash cut short, is left out."""
    return [row for row in read_objects(path) if isinstance(row.get("step"), int | float)]


def read_objects(path: Path) -> list[dict]:
    """The objects of a file with one a line; a line that is none is left out."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    return [row for row in map(parsed, lines) if isinstance(row, dict)]


def parsed(line: bytes) -> Any:
    """A line of JSON; None: it is none."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):  # not JSON, not UTF-8
        return None
