"""A run as lines of text: stages, and of the stage at hand its numbers, phases and notes. Colour only underlines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rlhf.watch.files import number
from rlhf.watch.state import Seen

LEVELS = "▁▂▃▄▅▆▇█"
WIDTH = 40  # points of a sparkline
NUMBERS = {
    "reward/score": "reward", "reward/turns": "paid", "reward/gold": "gold", "kl/per_response": "KL",
    "policy/entropy": "entropy", "response/length_mean": "length", "sync/logprob_gap_max": "gap",
    "policy/clipfrac": "clipped", "value/explained_variance": "explained", "throughput/tokens_per_s": "tokens/s",
    "rollout/waiting": "waiting", "rollout/staleness": "staleness",
    "loss": "loss", "validation_loss": "validation loss", "accuracy": "accuracy",
    "validation_accuracy": "validation accuracy", "margin": "margin", "learning_rate": "learning rate",
}
_MARKS = {"finished": "done", "running": "> now", "stopped": "! stopped", "waiting": "-"}
_STYLES = {"finished": "green", "running": "bold", "stopped": "red", "waiting": "dim"}
_NOTES = 6


def sparkline(values: Sequence[float], width: int = WIDTH) -> str:
    """The newest values as a line of blocks from their smallest to their largest; a gap where one is not finite."""
    shown = list(values)[-width:]
    finite = [value for value in shown if math.isfinite(value)]
    if not finite:
        return ""
    low, span = min(finite) / 2, max(finite) / 2 - min(finite) / 2  # halves: the whole may be larger than a float
    top = len(LEVELS) - 1
    return "".join(
        LEVELS[round((value / 2 - low) / span * top) if span else 0] if math.isfinite(value) else " " for value in shown
    )


def duration(seconds: float | None) -> str:
    """`1 h 02 min`, `3 min 20 s`, `7 s`; nothing for None."""
    if seconds is None or not math.isfinite(seconds):
        return ""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 60} min {whole % 60:02d} s" if whole >= 60 else f"{whole} s"


def show(name: str, stages: Sequence[Seen], now: float | None = None) -> RenderableType:
    """Everything that is to be seen of a run."""
    now = time.time() if now is None else now
    at_hand = stage_at_hand(stages)
    parts: list[RenderableType] = [Text(f"{name}", style="bold"), _stages(stages)]
    if at_hand is not None:
        parts += [Text(""), *_details(at_hand, now)]
    return Group(*parts)


def stage_at_hand(stages: Sequence[Seen]) -> Seen | None:
    """The stage that is shown in full: one that runs, else one that was stopped, else the PPO run, else the last with
    numbers."""
    for state in ("running", "stopped"):
        for stage in stages:
            if stage.state == state:
                return stage
    with_numbers = [stage for stage in stages if stage.rows]
    ppo = [stage for stage in with_numbers if stage.column("reward/score")]
    return next(iter([*reversed(ppo), *reversed(with_numbers)]), None)


def _stages(stages: Sequence[Seen]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    for stage in stages:
        steps = f"{stage.step}/{stage.total}" if stage.total else (str(stage.step) if stage.step else "")
        left = f"{duration(stage.seconds_left())} left" if stage.state == "running" and stage.seconds_left() else ""
        table.add_row(
            Text(stage.name), Text(_MARKS[stage.state], style=_STYLES[stage.state]), Text(steps, justify="right"),
            Text(left or (stage.owner if stage.state == "stopped" else "")),
        )
    return table


def _details(stage: Seen, now: float) -> Iterator[RenderableType]:
    yield Text(_headline(stage, now), style="bold")
    numbers = _numbers(stage)
    if numbers.row_count:
        yield numbers
    phases = _phases(stage)
    if phases:
        yield Text("")
        yield Text(f"phases of the last step  {phases}")
    checkpoint = stage.checkpoint
    if checkpoint is not None and stage.state != "finished":
        yield Text(f"newest checkpoint  {checkpoint.parent.name}/{checkpoint.name}")
    notes = stage.notes[-_NOTES:]
    if notes:
        yield Text("")
        for when, note in notes:
            yield Text(f"{_clock(when)}  {note}", overflow="fold")


def _clock(when: float) -> str:
    """The time of day; of what is no time that a calendar has, none."""
    try:
        return time.strftime("%H:%M:%S", time.localtime(when))
    except (ValueError, OverflowError, OSError):
        return "--:--:--"


def _headline(stage: Seen, now: float) -> str:
    words = [stage.name]
    if stage.step:
        words.append(f"step {stage.step}" + (f" of {stage.total}" if stage.total else ""))
    each = stage.seconds_per_step()
    if each is not None:
        words.append(f"{each:.3g} s a step")
    if stage.state == "running" and stage.changed is not None:
        words.append(f"last step {duration(max(0.0, now - stage.changed))} ago")
    if stage.restarts:
        words.append(f"begun anew {stage.restarts} time{'s' if stage.restarts > 1 else ''}")
    return ", ".join([*words, stage.owner] if stage.owner and stage.state == "running" else words)


def _numbers(stage: Seen) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="crop")
    for name, label in NUMBERS.items():
        values = stage.column(name)
        if values:
            table.add_row(Text(label), Text(f"{values[-1]:.4g}"), Text(sparkline(values)))
    return table


def _phases(stage: Seen) -> str:
    last: Mapping[str, object] = stage.rows[-1] if stage.rows else {}
    seconds = {
        name.removeprefix("time/"): value for name, said in last.items()
        if name.startswith("time/") and (value := number(said)) is not None
    }
    whole = seconds.pop("step", sum(seconds.values()))
    return "  ".join(f"{name} {value:.2f} s ({value / whole:.0%})" for name, value in seconds.items() if whole > 0)
