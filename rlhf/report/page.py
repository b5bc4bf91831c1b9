"""The page: everything that was read of a run, in one HTML file that loads nothing.

Text from data or from a model is never trusted. It reaches the page in two ways only: through templates
that escape it, and as JSON in which `<`, `>`, `&` and `'` are escaped, which the page's scripts put into
`textContent`. A content security policy that allows the page's own scripts by hash is the second fence.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from importlib import resources
from typing import TYPE_CHECKING, Any

from rlhf.report import evaluation_charts, overview
from rlhf.report.absent import absences
from rlhf.report.chart import Chart
from rlhf.report.collect import Run
from rlhf.report.headline import headline, perplexity, wall_per_stage
from rlhf.report.health import readings
from rlhf.report.lineage import lineage
from rlhf.report.ppo_charts import ppo_charts
from rlhf.report.sentences import LEVELS, PAGE, SOURCES
from rlhf.report.stage_charts import last_numbers, stage_charts
from rlhf.report.table import duration
from rlhf.report.transcripts import (
    GREEDY,
    Group,
    Limits,
    evaluation,
    read_evaluation,
    read_training,
    training,
)
from rlhf.report.words import BROWSER, LANGUAGES, MODELS, STAGES, Text

if TYPE_CHECKING:
    import jinja2
    import pandas

_TRAINED = ("pretrain", "sft", "reward")
_SCRIPTS = ("language.js", "charts.js", "transcripts.js", "detail.js", "browser.js")


def render(run: Run, limits: Limits) -> str:
    """The whole page as text; raises RunError when a file of the run is broken."""
    from markupsafe import Markup

    scripts = _scripts()
    content = {
        **_content(run, limits),
        "say": PAGE, "levels": LEVELS, "models": list(MODELS.values()), "words": _both({**BROWSER, **_names()}),
        "style": Markup(_asset("style.css")), "scripts": [Markup(script) for script in scripts],
        "policy": _policy(scripts),
    }
    return _environment().get_template("page.html.j2").render(content)


def _content(run: Run, limits: Limits) -> dict[str, Any]:
    """What the run has to say, by the names of the template."""
    numbers = headline(run)
    ppo_stage, evaluated = run.stage("ppo"), read_evaluation(run.stage("evaluate"))
    ppo_rows = ppo_stage.metrics() if ppo_stage else None
    groups = _groups(run, evaluated, limits)
    trained = _training(run)
    ppo = ppo_charts(ppo_rows) if ppo_rows is not None else ()
    evaluation_part = evaluation_charts.evaluation_charts(evaluated, perplexity(run))
    gold = overview.gold(numbers, evaluated)
    content = {
        "name": run.name, "configs": run.configs(), "versions": _versions(run), "gold": gold,
        "facts": overview.facts(run, numbers), "times": overview.times(run), "tiles": overview.tiles(numbers, ppo_rows),
        "comparison": overview.comparison(run, numbers, evaluated),
        "absent": absences(run, groups, has_gold=gold is not None),
        "readings": readings(ppo_rows) if ppo_rows is not None else (),
        "ppo": ppo, "evaluation": evaluation_part, "cells": _cells(evaluated), "training": trained,
        "lineage": _lineage(run), "transcripts": [_group(group) for group in groups if len(group)],
        "figures": _figures([*ppo, *evaluation_part, *(chart for stage in trained for chart in stage["charts"])]),
    }
    return {**content, "sections": _sections(content)}


def _groups(run: Run, evaluated: pandas.DataFrame | None, limits: Limits) -> list[Group]:
    """What the browser of transcripts holds: sampled and most likely responses of the evaluation, and PPO's own."""
    greedy = read_evaluation(run.stage("evaluate"), GREEDY)
    return [evaluation(evaluated, limits), evaluation(greedy, limits, GREEDY),
            training(read_training(run.stage("ppo")), limits)]


def _training(run: Run) -> list[dict[str, Any]]:
    """Charts and last numbers of the stages before PPO; a stage without either is left out."""
    found = []
    for name in _TRAINED:
        stage = run.stage(name)
        rows = stage.metrics() if stage else None
        if rows is None or rows.empty:
            continue
        shown = [overview.Fact(*pair) for pair in last_numbers(name, rows, stage.results)]
        found.append({"title": STAGES[name], "facts": shown, "charts": stage_charts(name, rows)})
    return found


def _cells(rows: pandas.DataFrame | None) -> list[dict[str, Any]]:
    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:.1f}"

    return [
        {"family": cell.family, "language": LANGUAGES.get(cell.language, Text(cell.language, cell.language)),
         "prompts": cell.prompts, "gold": [shown(cell.gold[model]) for model in MODELS],
         "change": overview.change(cell.gain, "{:.1f}".format, 1)}
        for cell in evaluation_charts.cells(rows)
    ]


def _lineage(run: Run) -> list[dict[str, Any]]:
    wall = {name: duration(seconds) for name, seconds in wall_per_stage(run).items()}
    return [
        {"name": item.stage.name, "label": STAGES.get(item.stage.stage), "fingerprint": item.fingerprint,
         "parents": item.parents, "wall": wall.get(item.stage.name)}
        for item in lineage(run)
    ]


def _versions(run: Run) -> list[dict[str, str]]:
    """Package versions of all manifests; where stages differ, every version is named."""
    found: dict[str, dict[str, None]] = {}
    for stage in run.stages:
        for package, version in (stage.manifest.versions if stage.manifest else {}).items():
            found.setdefault(package, {})[str(version)] = None
    return [{"name": package, "value": " / ".join(versions)} for package, versions in sorted(found.items())]


def _group(group: Group) -> dict[str, Any]:
    return {"title": SOURCES[group.source]._asdict(), "records": list(group.records)}


def _figures(charts: Sequence[Chart]) -> dict[str, Mapping[str, Any]]:
    return {chart.key: chart.figure for chart in charts}


def _sections(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The entries of the navigation: the sections that have content."""
    wanted = {"overview": True, "health": content["readings"], "ppo": content["ppo"],
              "evaluation": content["evaluation"] or content["cells"], "transcripts": content["transcripts"],
              "training": content["training"], "lineage": True}
    return [{"key": key, "title": PAGE[f"nav_{key}"]} for key, present in wanted.items() if present]


def _names() -> dict[str, Text]:
    """Names of languages and models, for the browser of transcripts."""
    return {**{f"language-{code}": name for code, name in LANGUAGES.items()},
            **{f"model-{model}": name for model, name in MODELS.items()}}


def _both(words: Mapping[str, Text]) -> dict[str, dict[str, str]]:
    return {key: text._asdict() for key, text in words.items()}


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("rlhf.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True)
    environment.policies["json.dumps_kwargs"] = {"ensure_ascii": False, "allow_nan": False, "separators": (",", ":")}
    return environment


def _asset(name: str) -> str:
    return resources.files("rlhf.report").joinpath("templates", name).read_text(encoding="utf-8")


def _scripts() -> list[str]:
    """plotly and the page's own scripts, each fit to stand in a script element."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs(), *(_asset(name) for name in _SCRIPTS)]
    assert all("</script" not in script.lower() and "\r" not in script for script in scripts)
    return scripts


def _policy(scripts: Sequence[str]) -> str:
    """Nothing is loaded, and no script runs but these; styles and images that plotly makes in the page are allowed."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{value}'" for value in hashes)
    return (f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
            "base-uri 'none'; form-action 'none'")
