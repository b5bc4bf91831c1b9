"""The short table that a pipeline ends with, from `summary.json`; and the same of several runs side by side."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import RunError
from rlhf.report.transcripts import number
from rlhf.report.words import LANGUAGES, MODELS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_ABSENT = "–"


@dataclass(frozen=True)
class Line:
    """A number of `summary.json` (`key`, dotted where it lies deeper), how it is written, and what it is compared with.

    `over` is the key of the number that it is shown as a difference to; more is better where that is shown.
    """

    label: str
    key: str
    form: Callable[[float], str]
    remark: str = ""
    over: str | None = None

    def value(self, summary: Mapping[str, Any]) -> float | None:
        return _find(summary, self.key)

    def text(self, summary: Mapping[str, Any]) -> str:
        found = self.value(summary)
        return _ABSENT if found is None else self.form(found)

    def change(self, summary: Mapping[str, Any]) -> str:
        before, after = _find(summary, self.over) if self.over else None, self.value(summary)
        if before is None or after is None:
            return ""
        change = f"{after - before:+.{_decimals(self.form)}f}"
        return f"[green]{change}[/green]" if after > before else f"[red]{change}[/red]"


def show(summary_path: Path, console: Console | None = None) -> None:
    """Print the table of a `summary.json`, and where the report is; raises RunError when the file is not one."""
    from rich.console import Console

    summary = read(summary_path)
    console = console or Console()
    console.print(table(summary))
    if summary.get("report"):
        console.print(f"report  {summary['report']}", markup=False, highlight=False, soft_wrap=True)


def compare(summary_paths: Sequence[Path], console: Console | None = None) -> None:
    """Print several runs side by side, a column each; raises RunError when a file is not a summary."""
    from rich.console import Console

    (console or Console()).print(side_by_side({path.parent.name: read(path) for path in summary_paths}))


def read(path: Path) -> dict[str, Any]:
    """A `summary.json`; raises RunError when there is none or it is broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: no such summary; run the pipeline to its end first") from None
    except OSError as error:
        raise RunError(f"{path}: not readable ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8
        raise RunError(f"{path}: not valid JSON ({error}); delete it and run the pipeline again") from None
    if not isinstance(content, dict):
        raise RunError(f"{path}: holds a {type(content).__name__}, not an object; delete it and run the pipeline again")
    return content


def table(summary: Mapping[str, Any]) -> Table:
    """A line per number that the run measured."""
    made = _empty("Result")
    made.add_column("value", justify="right")
    made.add_column("difference", justify="right")
    made.add_column("", style="dim")
    for line in lines([summary]):
        made.add_row(line.label, line.text(summary), line.change(summary), line.remark)
    return made


def side_by_side(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """A line per number that any of the runs measured, and per difference; a column per run."""
    made = _empty("Runs")
    for name in summaries:
        made.add_column(name, justify="right")
    made.add_column("", style="dim", no_wrap=True)
    for line in lines(list(summaries.values())):
        values = [line.text(summary) for summary in summaries.values()]
        made.add_row(line.label, *values, "" if line.over else line.remark)
        changes = [line.change(summary) for summary in summaries.values()]
        if any(changes):
            made.add_row(f"  {line.remark}", *changes, "")
    return made


def lines(summaries: Sequence[Mapping[str, Any]]) -> list[Line]:
    """The lines of which at least one summary has the number."""
    return [line for line in _all_lines() if any(line.value(summary) is not None for summary in summaries)]


def _all_lines() -> list[Line]:
    return [
        Line("gold score, base", "gold_score_base", _tenths, "of 100, held out"),
        Line("gold score, SFT", "gold_score_sft", _tenths, "over base", "gold_score_base"),
        Line("gold score, PPO", "gold_score_ppo", _tenths, "over SFT", "gold_score_sft"),
        Line("greedy gold, SFT", "gold_score_sft_greedy", _tenths, "the most likely answers"),
        Line("greedy gold, PPO", "gold_score_ppo_greedy", _tenths, "over SFT", "gold_score_sft_greedy"),
        Line("reward score, SFT", "reward_score_sft", _hundredths, "of the reward model"),
        Line("reward score, PPO", "reward_score_ppo", _hundredths, "over SFT", "reward_score_sft"),
        Line("reward-model accuracy", "reward_model_accuracy", "{:.1%}".format, "held-out pairs"),
        Line("“longer is better”", "longer_is_better_accuracy", "{:.1%}".format, "the same pairs"),
        Line("KL to the reference", "kl_nats_per_response", _hundredths, "nats per response"),
        *(
            Line(f"perplexity {name.en}, {model.en}", f"perplexity.{key}.{lang}", _tenths, "held-out text")
            for lang, name in LANGUAGES.items() for key, model in MODELS.items()
        ),
        Line("sampler–learner gap", "sampler_learner_gap_nats_max", "{:.1e}".format, "nats, largest"),
        Line("wall time", "wall_s", duration, "of all stages"),
        Line("peak memory", "peak_pss_gib", "{:.2f} GiB".format, "PSS"),
    ]


def _tenths(value: float) -> str:
    return f"{value:.1f}"


def _hundredths(value: float) -> str:
    return f"{value:.2f}"


def _decimals(form: Callable[[float], str]) -> int:
    return 2 if form is _hundredths else 1


def _find(summary: Mapping[str, Any], key: str) -> float | None:
    found: Any = summary
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return number(found)


def _empty(title: str) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    made = Table(box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold")
    made.add_column("", no_wrap=True)
    return made


def duration(seconds: float) -> str:
    """`1 h 02 min`, `3 min 05 s`, or `4.2 s`."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
