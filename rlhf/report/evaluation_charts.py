"""Charts and the table of an evaluation: gold before and after per family and language, and perplexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rlhf.report.chart import Axes, Chart, bar_chart
from rlhf.report.transcripts import number
from rlhf.report.words import LANGUAGES, MODELS, Text

if TYPE_CHECKING:
    import pandas

@dataclass(frozen=True)
class Cell:
    """One row of the table: a family in a language, prompts, and the mean gold score (0–100) per model."""

    family: str
    language: str
    prompts: int
    gold: Mapping[str, float | None]

    @property
    def gain(self) -> float | None:
        """PPO minus SFT."""
        before, after = self.gold.get("sft"), self.gold.get("ppo")
        return None if before is None or after is None else after - before


def evaluation_charts(rows: pandas.DataFrame | None, perplexity: Mapping[str, Mapping[str, float]]) -> Sequence[Chart]:
    """Charts for which there are numbers."""
    charts = [_gold_by(rows, "family"), _gold_by(rows, "lang"), _perplexity(perplexity)]
    return [chart for chart in charts if chart is not None]


def cells(rows: pandas.DataFrame | None) -> Sequence[Cell]:
    """Mean gold score per family and language; empty without gold scores."""
    if not _has_gold(rows):
        return ()
    rows = rows.assign(family=_column(rows, "family"), lang=_column(rows, "lang"))
    found = []
    for (family, language), part in rows.groupby(["family", "lang"], sort=True):
        means = part.groupby("model")["gold"].mean()
        gold = {model: number(means.get(model)) for model in MODELS}
        found.append(Cell(str(family), str(language), int(part.groupby("model").size().max()), gold))
    return found


def _rank(item: tuple[str, object]) -> int:
    """Base, SFT, PPO, then any other model."""
    return list(MODELS).index(item[0]) if item[0] in MODELS else len(MODELS)


def _has_gold(rows: pandas.DataFrame | None) -> bool:
    return rows is not None and "gold" in rows and bool(rows["gold"].notna().any())


def _column(rows: pandas.DataFrame, name: str) -> pandas.Series:
    import pandas

    return rows[name].fillna("").astype(str).replace("", "–") if name in rows else pandas.Series("–", index=rows.index)


def _gold_by(rows: pandas.DataFrame | None, column: str) -> Chart | None:
    if not _has_gold(rows) or column not in rows:
        return None
    rows = rows.assign(**{column: _column(rows, column)})
    labels = sorted(rows[column].unique())
    means = rows.groupby([column, "model"])["gold"].mean()
    series = {model: [number(means.get((label, model))) for label in labels] for model in MODELS}
    title = {"family": Text("Gold score per family", "各任务类别的真实分"),
             "lang": Text("Gold score per language", "各语言的真实分")}[column]
    note = Text("Mean over held-out prompts, before and after.", "留出提示上的平均分，训练前后对比。")
    shown = [LANGUAGES[label].en if label in LANGUAGES else label for label in labels] if column == "lang" else labels
    axes = Axes("gold score", range=(0, 100))
    return bar_chart(f"gold-{column}", title, note, shown, series, axes, wide=column == "family")


def _perplexity(table: Mapping[str, Mapping[str, float]]) -> Chart | None:
    labels = sorted({language for row in table.values() for language in row})
    series = {model: [row.get(language) for language in labels] for model, row in sorted(table.items(), key=_rank)}
    title = Text("Perplexity per language", "各语言的困惑度")
    note = Text("On held-out text; what alignment costs the language model.",
                "在留出文本上；显示对齐对语言建模的代价。")
    shown = [LANGUAGES[label].en if label in LANGUAGES else label for label in labels]
    return bar_chart("perplexity", title, note, shown, series, Axes("perplexity", from_zero=True))
