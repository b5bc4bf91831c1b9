"""Charts as plotly figures without a theme: colours are names that the page resolves for light and dark."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.report.transcripts import number
from rlhf.report.words import MODELS, Text

if TYPE_CHECKING:
    import pandas

POINTS = 600
"""Most points per line; longer runs are drawn as the mean (of maxima: the maximum) of equal spans of steps."""

_SMOOTH_FROM = 40
"""A run of fewer steps is drawn as it is; a longer one also as a running mean over a twentieth of it."""


@dataclass(frozen=True)
class Chart:
    """One figure of the page: `figure` is plotly JSON (data and layout)."""

    key: str
    title: Text
    note: Text
    figure: Mapping[str, Any]
    wide: bool = False


@dataclass(frozen=True)
class Line:
    """One line: a column of the metrics, its name in the legend, and the name of its colour."""

    column: str
    name: str
    colour: str
    right: bool = False
    smooth: bool = False
    dash: str = "solid"


@dataclass(frozen=True)
class Axes:
    """Titles of the vertical axes, and whether they start at zero; kind and range of the left one."""

    left: str = ""
    right: str = ""
    log: bool = False
    from_zero: bool = False
    right_from_zero: bool = False
    range: tuple[float, float] | None = None

    def vertical(self) -> dict[str, Any]:
        """The left axis in plotly's terms."""
        axis: dict[str, Any] = {"title": {"text": self.left}, "exponentformat": "e"}
        if self.log:
            axis.update(type="log", exponentformat="power", dtick=1)
        if self.from_zero:
            axis["rangemode"] = "tozero"
        return axis if self.range is None else {**axis, "range": list(self.range)}


@dataclass(frozen=True)
class PlainChart:
    """A chart over `step` that shows columns as they are; called with the rows it is drawn, as by `line_chart`."""

    key: str
    title: Text
    note: Text
    lines: tuple[Line, ...]
    axes: Axes

    def __call__(self, rows: pandas.DataFrame) -> Chart | None:
        return line_chart(self.key, self.title, self.note, rows, self.lines, self.axes)


def line_chart(key: str, title: Text, note: Text, rows: pandas.DataFrame, lines: Sequence[Line], axes: Axes,
               wide: bool = False) -> Chart | None:
    """A chart over `step`; None when none of the columns holds a number."""
    rows = thin(rows)
    traces = [trace for line in lines if has(rows, line.column) for trace in _traces(rows, line)]
    return Chart(key, title, note, figure(traces, _line_layout(axes, _few(rows))), wide) if traces else None


def stacked_chart(key: str, title: Text, note: Text, rows: pandas.DataFrame, lines: Sequence[Line], axes: Axes,
                  wide: bool = False) -> Chart | None:
    """Columns stacked over `step`; None when none of them holds a number."""
    rows = thin(rows)
    traces = [
        {"type": "scatter", "mode": "lines", "x": numbers(rows["step"]), "y": numbers(rows[line.column].fillna(0)),
         "name": line.name, "stackgroup": "one", "line": {"width": 0.5}, "meta": {"colour": line.colour}}
        for line in lines if has(rows, line.column)
    ]
    return Chart(key, title, note, figure(traces, _line_layout(axes, _few(rows))), wide) if traces else None


def bar_chart(key: str, title: Text, note: Text, labels: Sequence[str], series: Mapping[str, Sequence[Any]],
              axes: Axes, wide: bool = False) -> Chart | None:
    """Grouped bars: `series` maps a model to one number per label; None when there is no number."""
    shown = [plain(label) for label in labels]
    found = {name: [(label, value) for label, value in zip(shown, values, strict=True) if value is not None]
             for name, values in series.items()}
    traces = [
        {"type": "bar", "x": [label for label, _ in bars], "y": [value for _, value in bars],
         "name": MODELS[name].en if name in MODELS else plain(name), "meta": {"colour": name},
         "hovertemplate": "%{y:.3~g}", "texttemplate": "%{y:.3~g}", "textposition": "outside",
         "constraintext": "none", "cliponaxis": False}
        for name, bars in found.items() if bars
    ]
    categories = {"type": "category", "categoryorder": "array", "categoryarray": shown}
    layout = {"barmode": "group", "bargap": 0.25, "hovermode": "x unified", "xaxis": categories,
              "yaxis": axes.vertical()}
    return Chart(key, title, note, figure(traces, layout), wide) if traces else None


def figure(traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any]) -> dict[str, Any]:
    """Validated by plotly (a misspelt property raises ValueError), with no theme of its own."""
    import plotly.graph_objects

    made = plotly.graph_objects.Figure(data=list(traces), layout={"template": {}, **layout})
    return made.to_plotly_json()


def has(rows: pandas.DataFrame, column: str) -> bool:
    """Whether the column is there and holds a number."""
    return column in rows and bool(rows[column].notna().any())


def thin(rows: pandas.DataFrame) -> pandas.DataFrame:
    """At most POINTS rows: equal spans of rows, each its mean, or its maximum for columns named `…_max`."""
    if len(rows) <= POINTS:
        return rows
    span = [index * POINTS // len(rows) for index in range(len(rows))]
    rules = {name: "max" if name == "step" or name.endswith("_max") else "mean" for name in rows.columns}
    return rows.groupby(span).agg(rules).reset_index(drop=True)


def numbers(column: pandas.Series) -> list[float | None]:
    """Six significant digits each; None where there is no finite number."""
    values = (number(value) for value in column)
    return [None if value is None else float(f"{value:.6g}") for value in values]


def plain(text: str) -> str:
    """Text for plotly, which reads its labels as a kind of HTML and keeps categories in a JavaScript object."""
    return "__proto__\u200b" if text == "__proto__" else html.escape(text, quote=False)


def _traces(rows: pandas.DataFrame, line: Line) -> list[dict[str, Any]]:
    """The line, and where the run is long a running mean in front of it; steps that did not log it are left out."""
    rows = rows[["step", line.column]].dropna()
    steps, smooth = numbers(rows["step"]), line.smooth and len(rows) >= _SMOOTH_FROM
    shared = {
        "type": "scatter", "x": steps, "legendgroup": line.column, "name": line.name,
        "mode": "lines" if len(rows) > 1 else "markers", **({"yaxis": "y2"} if line.right else {}),
    }
    raw = {**shared, "y": numbers(rows[line.column]), "line": {"width": 1 if smooth else 2, "dash": line.dash},
           "meta": {"colour": line.colour, "faint": smooth}}
    if not smooth:
        return [raw]
    mean = rows[line.column].rolling(max(3, len(rows) // 20), center=True, min_periods=1).mean()
    return [
        {**raw, "showlegend": False, "hoverinfo": "skip"},
        {**shared, "y": numbers(mean), "line": {"width": 2.5, "dash": line.dash}, "meta": {"colour": line.colour}},
    ]


def _few(rows: pandas.DataFrame) -> bool:
    """Whether the steps are so few that an axis left to itself would name halves of them."""
    return len(rows) > 0 and bool(rows["step"].max() - rows["step"].min() < 8)


def _line_layout(axes: Axes, few_steps: bool) -> dict[str, Any]:
    steps = {"title": {"text": "step"}, **({"tick0": 0, "dtick": 1} if few_steps else {})}
    layout: dict[str, Any] = {"hovermode": "x unified", "xaxis": steps, "yaxis": axes.vertical()}
    if axes.right:
        layout["yaxis2"] = {
            "title": {"text": axes.right}, "overlaying": "y", "side": "right", "showgrid": False, "tickmode": "auto",
            "nticks": 6, "exponentformat": "e", "rangemode": "tozero" if axes.right_from_zero else "normal",
        }
    return layout
