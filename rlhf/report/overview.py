"""The top of the page: facts, tiles, gold before and after, the comparison of the models, and what is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.report.collect import Run
from rlhf.report.headline import Difference, difference, perplexity, wall_per_stage
from rlhf.report.table import duration
from rlhf.report.transcripts import number
from rlhf.report.words import LANGUAGES, MODELS, STAGES, Text

if TYPE_CHECKING:
    import pandas

_ABSENT = "–"
_MINUS = str.maketrans("-", "−")


@dataclass(frozen=True)
class Fact:
    """A name and its value in words."""

    name: Text
    value: str


@dataclass(frozen=True)
class Tile:
    """A number to be seen at a glance."""

    name: Text
    value: str
    remark: Text


@dataclass(frozen=True)
class Change:
    """A signed difference; `tone` is "up" for better, "down" for worse, empty for neither."""

    value: str
    tone: str = ""


@dataclass(frozen=True)
class Comparison:
    """One row of the table of models: values of base, SFT, PPO; changes SFT − base and PPO − SFT."""

    name: Text
    values: Sequence[str]
    changes: Sequence[Change]


@dataclass(frozen=True)
class _Column:
    """A column of the evaluation's transcripts: its format, and whether more is better (+1), worse (−1) or neither."""

    column: str
    name: Text
    form: Callable[[float], str]
    better: int = 0
    headline: str = ""


_COLUMNS = (
    _Column("gold", Text("gold score (0–100)", "真实分（0–100）"), "{:.1f}".format, 1, "gold_score_{}"),
    _Column("", Text("gold score, greedy decoding", "真实分（贪心解码）"), "{:.1f}".format, 1, "gold_score_{}_greedy"),
    _Column("score", Text("reward score", "奖励分"), "{:.2f}".format, 0, "reward_score_{}"),
    _Column("kl", Text("KL to SFT, nats per response", "与 SFT 的 KL（每条回答 nats）"), "{:.2f}".format),
    _Column("length", Text("response length, tokens", "回答长度（词元）"), "{:.1f}".format),
    _Column("finished", Text("ended before the limit, %", "在上限前结束（%）"), lambda share: f"{100 * share:.1f}"),
)


def facts(run: Run, numbers: Mapping[str, float]) -> Sequence[Fact]:
    """Seed, stages, steps and prompts; what is not known is left out."""
    found = [
        (Text("seed", "随机种子"), None if run.seed is None else str(run.seed)),
        (Text("stages", "阶段数"), str(len(run.stages))),
        (Text("PPO steps", "PPO 步数"), _shown(numbers.get("ppo_steps"), "{:.0f}".format)),
        (Text("held-out prompts", "留出提示数"), _shown(numbers.get("n_prompts"), "{:.0f}".format)),
    ]
    return [Fact(name, value) for name, value in found if value not in (None, _ABSENT)]


def times(run: Run) -> Sequence[dict[str, Any]]:
    """Wall time per stage as shares of their sum; empty when fewer than two stages recorded it."""
    wall = wall_per_stage(run)
    total = sum(wall.values())
    if len(wall) < 2 or total <= 0:
        return ()
    stages = {stage.name: stage.stage for stage in run.stages}
    return [
        {"name": STAGES.get(stages[name], Text(name, name)), "value": duration(seconds), "colour": index % 8 + 1,
         "percent": f"{100 * seconds / total:.2f}"}
        for index, (name, seconds) in enumerate(wall.items())
    ]


def gold(numbers: Mapping[str, float], rows: pandas.DataFrame | None) -> dict[str, Any] | None:
    """Gold score per model as bars, and PPO's gain over SFT; None without gold scores."""
    scores = {model: numbers.get(f"gold_score_{model}") for model in MODELS}
    bars = [
        {"model": model, "name": MODELS[model], "value": f"{score:.1f}", "percent": f"{min(100, max(0, score)):.2f}"}
        for model, score in scores.items() if score is not None
    ]
    if not bars:
        return None
    return {"rows": bars, "change": _gain(scores["sft"], scores["ppo"], difference(rows, "gold", "sft", "ppo"))}


def _gain(before: float | None, after: float | None, paired: Difference | None) -> Text | None:
    if before is None or after is None:
        return None
    points = f"{after - before:+.1f}".translate(_MINUS)
    if paired is None:
        return Text("PPO over SFT: {} points", "PPO 较 SFT：{} 分").format(points)
    return Text("PPO over SFT: {} points (± {:.1f}, {} prompts)", "PPO 较 SFT：{} 分（± {:.1f}，{} 条提示）").format(
        points, paired.half_width, paired.prompts)


def tiles(numbers: Mapping[str, float], ppo_rows: pandas.DataFrame | None) -> Sequence[Tile]:
    """Scores of the PPO run from first to last, reward-model accuracy, KL, gap, and cost; only what is known."""
    pairs = Text("on held-out pairs", "留出偏好对")
    if "longer_is_better_accuracy" in numbers:
        longer = f"{numbers['longer_is_better_accuracy']:.1%}"
        pairs = Text(f"on held-out pairs; “longer is better”: {longer}", f"留出偏好对；“越长越好”：{longer}")
    fixed = [
        ("reward_model_accuracy", Text("Reward-model accuracy", "奖励模型准确率"), "{:.1%}".format, pairs),
        ("kl_nats_per_response", Text("KL per response", "每条回答 KL"), "{:.2f}".format,
         Text("nats, to the reference", "nats，相对参考模型")),
        ("sampler_learner_gap_nats_max", Text("Sampler–learner gap", "采样器与学习器之差"), "{:.1e}".format,
         Text("nats, largest over all tokens", "nats，所有词元最大值")),
    ]
    found = [*_first_to_last(ppo_rows)]
    found += [Tile(name, form(numbers[key]), remark) for key, name, form, remark in fixed if key in numbers]
    return [*found, *_cost(numbers)]


def _cost(numbers: Mapping[str, float]) -> Sequence[Tile]:
    """Wall time with peak memory beside it, or whichever of the two is known."""
    memory = f"{numbers['peak_pss_gib']:.2f} GiB" if "peak_pss_gib" in numbers else None
    if "wall_s" in numbers:
        remark = Text("all stages", "全部阶段")
        if memory:
            remark = Text(f"peak memory {memory} (PSS)", f"内存峰值 {memory}（PSS）")
        return [Tile(Text("Wall time", "总耗时"), duration(numbers["wall_s"]), remark)]
    return [Tile(Text("Peak memory", "内存峰值"), memory, Text("PSS", "PSS"))] if memory else []


def _first_to_last(rows: pandas.DataFrame | None) -> Sequence[Tile]:
    """Mean over the first and over the last tenth of the PPO steps."""
    if rows is None or rows.empty:
        return ()
    names = {"reward/score": (Text("Reward score in PPO", "PPO 中的奖励分"), "{:.2f}".format),
             "reward/gold": (Text("Gold score in PPO", "PPO 中的真实分"), "{:.1f}".format)}
    found = []
    for column, (name, form) in names.items():
        values = rows[column].dropna() if column in rows else ()
        if len(values) == 0:
            continue
        span = max(1, len(values) // 10)
        first, last = form(values.iloc[:span].mean()), form(values.iloc[-span:].mean())
        found.append(Tile(name, f"{first} → {last}".translate(_MINUS), Text(
            "first → last tenth of the steps", "前十分之一 → 后十分之一步")))
    return found


def comparison(run: Run, numbers: Mapping[str, float], rows: pandas.DataFrame | None) -> Sequence[Comparison]:
    """One row per quantity that at least one model has."""
    made = [_compare_column(item, numbers, rows) for item in _COLUMNS]
    table = perplexity(run)
    for language in sorted({language for row in table.values() for language in row}):
        shown = LANGUAGES.get(language, Text(language, language))
        name = Text(f"perplexity, {shown.en}", f"困惑度，{shown.zh}")
        values = {model: table.get(model, {}).get(language) for model in MODELS}
        made.append(_compare(name, values, "{:.2f}".format, -1))
    return [row for row in made if row is not None]


def _compare_column(item: _Column, numbers: Mapping[str, float], rows: pandas.DataFrame | None) -> Comparison | None:
    measured = rows is not None and item.column in rows
    means = rows.groupby("model")[item.column].mean() if measured else {}
    values = {model: numbers.get(item.headline.format(model)) if item.headline else None for model in MODELS}
    values = {model: number(means.get(model)) if value is None else value for model, value in values.items()}
    paired = {pair: difference(rows, item.column, *pair) for pair in (("base", "sft"), ("sft", "ppo"))}
    return _compare(item.name, values, item.form, item.better, paired)


def _compare(name: Text, values: Mapping[str, float | None], form: Callable[[float], str], better: int,
             paired: Mapping[tuple[str, str], Difference | None] | None = None) -> Comparison | None:
    if all(value is None for value in values.values()):
        return None
    changes = []
    for pair in (("base", "sft"), ("sft", "ppo")):
        before, after = (values[model] for model in pair)
        spread = (paired or {}).get(pair)
        changes.append(change(None if before is None or after is None else after - before, form, better, spread))
    return Comparison(name, [_shown(value, form) for value in values.values()], changes)


def change(value: float | None, form: Callable[[float], str], better: int, spread: Difference | None = None) -> Change:
    """A difference in words, with its 95% half-width where prompts were paired."""
    if value is None:
        return Change("")
    sign = "+" if value > 0 else "−" if value < 0 else "±"
    tone = "" if not better or value == 0 else "up" if value * better > 0 else "down"
    margin = f" (± {form(spread.half_width)})" if spread else ""
    return Change(f"{sign}{form(abs(value))}{margin}", tone)


def _shown(value: float | None, form: Callable[[float], str]) -> str:
    return _ABSENT if value is None else form(value).translate(_MINUS)
