"""Looks at a run until it has ended."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.live import Live

from rlhf.watch.state import Watched
from rlhf.watch.view import show


def watch(run: Path, once: bool, every_s: float = 1.0, console: Console | None = None) -> None:
    """Show a run: once where it is finished, or asked for, or where nobody looks at a terminal; else until it is.

    Raises RunError when there is no run.
    """
    console = console or Console(highlight=False)
    watched, name = Watched(run), str(run)
    stages = watched.look()
    if once or not console.is_terminal or _is_over(stages):
        console.print(show(name, stages))
        return
    with Live(show(name, stages), console=console, auto_refresh=False, vertical_overflow="crop") as live:
        while not _is_over(stages):
            time.sleep(every_s)
            stages = watched.look()
            live.update(show(name, stages), refresh=True)


def _is_over(stages: list) -> bool:
    return all(stage.state == "finished" for stage in stages)
