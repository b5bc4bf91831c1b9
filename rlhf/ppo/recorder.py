"""Where a PPO run's numbers go: metrics.jsonl, TensorBoard, and the terminal or log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rlhf.interfaces import Position
from rlhf.metrics import JsonLines, MetricsSink, TensorBoard
from rlhf.progress import Progress

SHOWN = {
    "reward": "reward/score", "paid": "reward/turns", "gold": "reward/gold", "kl": "kl/per_response",
    "entropy": "policy/entropy", "length": "response/length_mean", "gap": "sync/logprob_gap_max",
    "tok/s": "throughput/tokens_per_s", "s": "time/step",
}


class RunRecorder:
    """Writes each step once, also after a resume."""

    def __init__(self, work: Path, total: int, progress: Progress) -> None:
        self.work = work
        self.total = total
        self.progress = progress
        self.sinks: list[MetricsSink] = []
        self.position = Position(0, "start")

    def begin(self, step: int) -> None:
        """Open the sinks, dropping what an interrupted run wrote after `step`."""
        self.close()
        self.sinks = [
            JsonLines(self.work / "metrics.jsonl", keep_through=step),
            TensorBoard(self.work / "tensorboard", purge_after=step),
        ]

    def enter(self, step: int, phase: str) -> None:
        """A phase of a step begins."""
        self.position = Position(step, phase, self.position.count + 1)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        for sink in self.sinks:
            sink.write(step, numbers)
        shown = {label: numbers[name] for label, name in SHOWN.items() if name in numbers}
        self.progress.step("ppo", step, self.total, shown)

    def close(self) -> None:
        for sink in self.sinks:
            sink.close()
        self.sinks = []
