"""Where a PPO run's numbers go: metrics.jsonl, TensorBoard, the terminal or log, and whoever else watches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rlhf.events import add_event, read_events
from rlhf.interfaces import Position
from rlhf.metrics import JsonLines, MetricsSink, TensorBoard, Watcher, read_json_lines
from rlhf.ppo.at_hand import STEP
from rlhf.progress import Progress

SHOWN = {
    "reward": "reward/score", "paid": "reward/turns", "gold": "reward/gold", "kl": "kl/per_response",
    "entropy": "policy/entropy", "length": "response/length_mean", "gap": "sync/logprob_gap_max",
    "tok/s": "throughput/tokens_per_s", "s": "time/step",
}


class RunRecorder:
    """Writes each step once, also after a resume."""

    def __init__(self, work: Path, total: int, progress: Progress, watchers: Sequence[Watcher] = ()) -> None:
        self.work = work
        self.total = total
        self.progress = progress
        self.watchers = watchers
        self.sinks: list[MetricsSink] = []
        self.position = Position(0, "start")

    def begin(self, step: int) -> None:
        """Open the sinks, dropping what an interrupted run wrote after `step`."""
        self._close_sinks()
        metrics = self.work / "metrics.jsonl"
        self._say_what_is_lost(metrics, step)
        self.sinks = [
            JsonLines(metrics, keep_through=step),
            TensorBoard(self.work / "tensorboard", purge_after=step),
        ]
        add_event(self.work, begins_after=step)
        restarts = sum("begins_after" in event for event in read_events(self.work)) - 1
        for watcher in self.watchers:
            watcher.begin(step, self.total, restarts)

    def _say_what_is_lost(self, metrics: Path, through: int) -> None:
        lost = sorted(set(range(1, through + 1)) - {row["step"] for row in read_json_lines(metrics)})
        if lost:
            self.progress.note(
                f"{metrics}: damaged: without the numbers of {len(lost)} of the {through} steps until now, the first "
                f"of them {lost[0]}; the run goes on, and its curve has a gap there"
            )

    def enter(self, step: int, phase: str) -> None:
        """A phase of a step begins."""
        self.position = Position(step, phase, self.position.count + 1)
        STEP.set(step or None)
        for watcher in self.watchers:
            watcher.enter(phase)

    def record(self, step: int, numbers: Mapping[str, float]) -> None:
        for sink in [*self.sinks, *self.watchers]:
            sink.write(step, numbers)
        shown = {label: numbers[name] for label, name in SHOWN.items() if name in numbers}
        self.progress.step("ppo", step, self.total, shown)

    def close(self) -> None:
        self._close_sinks()
        for watcher in self.watchers:
            watcher.close()

    def _close_sinks(self) -> None:
        for sink in self.sinks:
            sink.close()
        self.sinks = []
