"""Live progress: a redrawn line in a terminal, one plain line per step in a job log."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID


class Progress(Protocol):
    """Shows where a stage stands."""

    def note(self, text: str) -> None:
        """One line that stays."""

    def step(self, label: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Step `done` of `total` of `label` has just ended with these numbers."""

    def close(self) -> None: ...


class LineProgress:
    """One line per step, for logs."""

    def note(self, text: str) -> None:
        print(text, flush=True)

    def step(self, label: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        print(f"{label} {done}/{total}  {_format(numbers)}", flush=True)

    def close(self) -> None:
        return None


class TerminalProgress:
    """A bar per label and, below the bars, the newest numbers; redrawn in place (rich)."""

    def __init__(self, console: Console | None = None) -> None:
        self._bars = _bars(console)
        self._tasks: dict[str, TaskID] = {}
        self._bars.start()

    def note(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def step(self, label: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(label, total=total)
        self._bars.update(self._tasks[label], completed=done, total=total, numbers=_format(numbers))

    def close(self) -> None:
        self._bars.stop()


def _bars(console: Console | None) -> Bars:
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress
    from rich.text import Text

    class NumbersBelow(RichProgress):
        """One line of numbers for the task that runs: beside the bars they would have no room."""

        def get_renderables(self):
            yield self.make_tasks_table(self.tasks)
            for task in self.tasks[-1:]:
                if not task.finished:
                    yield Text(task.fields.get("numbers", ""), style="dim")

    columns = (
        TextColumn("[bold]{task.description}"), BarColumn(bar_width=30), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("[dim]left"), TimeRemainingColumn(),
    )
    return NumbersBelow(*columns, console=console)


def for_this_output() -> Progress:
    """Bars when a person looks at a terminal, lines otherwise."""
    return TerminalProgress() if sys.stdout.isatty() else LineProgress()


def _format(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {number:.4g}" for name, number in numbers.items())
