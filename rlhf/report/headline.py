"""The numbers that a run is judged by, under the names of `summary.json`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlhf.report.collect import Run
from rlhf.report.transcripts import number
from rlhf.report.words import MODELS

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True)
class Difference:
    """Mean paired difference over prompts with the half-width of its 95% interval (normal approximation)."""

    mean: float
    half_width: float
    prompts: int


def headline(run: Run) -> dict[str, float]:
    """Every number that the run has: gold scores 0–100, accuracy 0–1, KL and gap in nats, wall in s, PSS in GiB.

    The evaluation's and the reward stage's manifests come first, then the PPO metrics, then `summary.json`.
    """
    found = {**_from_summary(run.summary), **_from_ppo(run), **_from_reward(run), **_from_evaluation(run)}
    return {name: value for name, value in found.items() if value is not None}


def _from_summary(summary: Mapping[str, Any]) -> dict[str, float | None]:
    names = [name for name, value in summary.items() if isinstance(value, int | float) and not isinstance(value, bool)]
    return {name: number(summary[name]) for name in names}


def _from_evaluation(run: Run) -> dict[str, float]:
    stage = run.stage("evaluate")
    models = [f"{model}{suffix}" for model in MODELS for suffix in ("", "_greedy")]
    names = [f"{kind}_score_{model}" for kind in ("gold", "reward") for model in models]
    return _numbers(stage.results, (*names, "kl_nats_per_response", "n_prompts")) if stage else {}


def _from_reward(run: Run) -> dict[str, float]:
    """Accuracy on the validation pairs: what the stage published, else the best one that it logged."""
    stage = run.stage("reward")
    if stage is None:
        return {}
    longer = _numbers(stage.results, ("longer_is_better_accuracy",))
    published = _numbers(stage.results, ("validation_accuracy", "accuracy"))
    if published:
        return {**longer, "reward_model_accuracy": next(iter(published.values()))}
    logged = stage.metrics().get("validation_accuracy")
    best = number(logged.max()) if logged is not None else None
    return longer if best is None else {**longer, "reward_model_accuracy": best}


def _from_ppo(run: Run) -> dict[str, float | None]:
    stage = run.stage("ppo")
    rows = stage.metrics() if stage else None
    if rows is None or rows.empty:
        return {}
    found: dict[str, float | None] = {"ppo_steps": float(len(rows))}
    if "sync/logprob_gap_max" in rows:
        found["sampler_learner_gap_nats_max"] = number(rows["sync/logprob_gap_max"].max())
    if "kl/per_response" in rows:
        found["kl_nats_per_response"] = number(rows["kl/per_response"].dropna().iloc[-1:].mean())
    return found


def _numbers(results: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    values = {name: number(results.get(name)) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def perplexity(run: Run) -> dict[str, dict[str, float]]:
    """Model → language → perplexity, from the evaluation's manifest; empty when it has none."""
    stage = run.stage("evaluate")
    table = stage.results.get("perplexity") if stage else None
    if not isinstance(table, Mapping):
        return {}
    rows = {str(model): _numbers(row, tuple(row)) for model, row in table.items() if isinstance(row, Mapping)}
    return {model: row for model, row in rows.items() if row}


def wall_per_stage(run: Run) -> dict[str, float]:
    """Seconds per stage: `wall_s` of its manifest, else of `summary.json` ("stages": name → wall_s), else, for PPO,
    the sum of its steps. A stage that recorded none is absent."""
    recorded = run.summary.get("stages")
    recorded = recorded if isinstance(recorded, Mapping) else {}
    found: dict[str, float | None] = {}
    for stage in run.stages:
        entry = recorded.get(stage.name)
        entry = entry.get("wall_s") if isinstance(entry, Mapping) else entry
        seconds = next((v for v in (number(stage.results.get("wall_s")), number(entry)) if v is not None), None)
        found[stage.name] = _steps_seconds(stage.metrics()) if seconds is None else seconds
    return {name: seconds for name, seconds in found.items() if seconds is not None}


def _steps_seconds(rows: pandas.DataFrame) -> float | None:
    return number(rows["time/step"].sum()) if "time/step" in rows and len(rows) else None


def difference(rows: pandas.DataFrame | None, column: str, before: str, after: str) -> Difference | None:
    """Of `column` between two models over the prompts that both answered; None when fewer than two have it."""
    if rows is None or column not in rows or "id" not in rows:
        return None
    wide = rows.pivot_table(index="id", columns="model", values=column, aggfunc="mean")
    if before not in wide or after not in wide:
        return None
    paired = (wide[after] - wide[before]).dropna()
    if len(paired) < 2:
        return None
    return Difference(float(paired.mean()), 1.96 * float(paired.std(ddof=1)) / math.sqrt(len(paired)), len(paired))
