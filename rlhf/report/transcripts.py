"""Transcripts for the page's browser: one record per prompt, its responses side by side.

From an evaluation the columns are the models; from PPO they are the steps at which the prompt was drawn.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlhf.errors import RunError
from rlhf.report.collect import TRANSCRIPTS, StageRun
from rlhf.report.words import MODELS

if TYPE_CHECKING:
    import pandas

_NEEDED = {"evaluate": ("prompt", "model", "response"), "ppo": ("step", "prompt", "response")}
_NUMBERS = ("step", "gold", "score", "kl", "length")


GREEDY = "greedy"
"""Source, and suffix of the model names, of an evaluation's most likely responses."""


@dataclass(frozen=True)
class Limits:
    """Bounds that keep the page quick to open."""

    prompts: int = 2000
    characters: int = 8000


@dataclass(frozen=True)
class Group:
    """The records of one source ("evaluate", "greedy" or "ppo"), and how many prompts the source had."""

    source: str
    records: Sequence[dict[str, Any]] = field(default_factory=tuple)
    total: int = 0

    def __len__(self) -> int:
        return len(self.records)


def read_evaluation(stage: StageRun | None, source: str = "evaluate") -> pandas.DataFrame | None:
    """The evaluation's rows, one per prompt and model, or None when there are none.

    Of source GREEDY: the rows of its most likely responses, their models named without that suffix.
    """
    name = f"{TRANSCRIPTS}_{GREEDY}.parquet" if source == GREEDY else f"{TRANSCRIPTS}.parquet"
    path = stage.find(name) if stage else None
    if path is None:
        return None
    rows = _read_parquet(path, "evaluate")
    return rows.assign(model=rows["model"].astype(str).str.removesuffix(f"/{GREEDY}"))


def read_training(stage: StageRun | None) -> pandas.DataFrame | None:
    """The transcripts that PPO kept, one row per response, ordered by step, or None when there are none."""
    import pandas

    directory = stage.find(TRANSCRIPTS) if stage else None
    files = sorted(directory.glob("*.parquet")) if directory else []
    if not files:
        return None
    rows = pandas.concat([_read_parquet(path, "ppo") for path in files], ignore_index=True)
    return rows.sort_values("step", kind="stable").reset_index(drop=True)


def evaluation(rows: pandas.DataFrame | None, limits: Limits, source: str = "evaluate") -> Group:
    """One record per prompt; samples in the order base, SFT, PPO."""
    if rows is None or rows.empty:
        return Group(source)
    order = {name: index for index, name in enumerate(MODELS)}
    rows = rows.assign(_order=rows["model"].map(order).fillna(len(order))).sort_values("_order", kind="stable")
    return _group(source, rows, "id" if "id" in rows else "prompt", limits)


def training(rows: pandas.DataFrame | None, limits: Limits) -> Group:
    """One record per prompt of the PPO run; samples in the order of steps."""
    if rows is None or rows.empty:
        return Group("ppo")
    return _group("ppo", rows, "prompt", limits)


def spread(total: int, wanted: int) -> list[int]:
    """`wanted` of the indices 0 … total−1, evenly spaced, first and last among them."""
    if total <= wanted:
        return list(range(total))
    if wanted < 2:
        return [0][:wanted]
    return [round(i * (total - 1) / (wanted - 1)) for i in range(wanted)]


def _group(source: str, rows: pandas.DataFrame, key: str, limits: Limits) -> Group:
    names = rows[key].map(_plain)
    identities = list(dict.fromkeys(names.sort_index()))
    chosen = {identities[index]: [] for index in spread(len(identities), limits.prompts)}
    for identity, row in zip(names, rows.to_dict("records"), strict=True):
        if identity in chosen:
            chosen[identity].append(row)
    records = [_record(identity, samples, limits) for identity, samples in chosen.items()]
    return Group(source, records, len(identities))


def _record(identity: str, rows: Iterable[dict[str, Any]], limits: Limits) -> dict[str, Any]:
    """The JSON of one prompt. Keys are short because a page holds thousands of samples."""
    rows = list(rows)
    first = rows[0]
    record = {
        "id": _cut(identity, 80),
        "lang": _plain(first.get("lang")),
        "family": _plain(first.get("family")),
        "prompt": _cut(_plain(first["prompt"]), limits.characters),
        "samples": [_sample(row, limits) for row in rows],
    }
    return {name: value for name, value in record.items() if value != ""}


def _sample(row: dict[str, Any], limits: Limits) -> dict[str, Any]:
    """One response: m model, s step, r text, g gold (0–100), w reward score, k KL (nats), n tokens, f finished."""
    numbers = {"s": "step", "g": "gold", "w": "score", "k": "kl", "n": "length"}
    sample: dict[str, Any] = {"r": _cut(_plain(row["response"]), limits.characters)}
    if "model" in row:
        sample["m"] = _plain(row["model"])
    for short, name in numbers.items():
        value = number(row.get(name))
        if value is not None:
            sample[short] = round(value, 4)
    finished = number(row.get("finished"))
    return sample if finished is None else {**sample, "f": finished > 0}


def number(value: Any) -> float | None:
    """A finite float, or None for whatever is none."""
    try:
        value = float(value)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def _plain(value: Any) -> str:
    """Text of a cell: a prompt kept as messages becomes `role: content` lines, a missing one is empty."""
    if isinstance(value, str):
        return value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(item, dict) and "content" in item for item in value):
        return "\n".join(f"{item.get('role', '')}: {item['content']}" for item in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… (+{len(text) - limit})"


def _read_parquet(path: Path, source: str) -> pandas.DataFrame:
    import pandas
    import pyarrow

    try:
        rows = pandas.read_parquet(path)
    except (OSError, ValueError, TypeError, pyarrow.ArrowException) as error:
        said = (str(error).splitlines() or [""])[0][:300]
        raise RunError(f"{path}: not readable as parquet ({said}); delete it and run stage {source} again") from None
    missing = [name for name in _NEEDED[source] if name not in rows]
    if missing:
        raise RunError(f"{path}: no column {', '.join(missing)} (found {', '.join(map(str, rows.columns))}); "
                       f"run stage {source} again")
    wrong = [name for name in _NUMBERS if name in rows and not pandas.api.types.is_numeric_dtype(rows[name])]
    if wrong and len(rows):
        raise RunError(f"{path}: column {wrong[0]} holds something else than numbers; run stage {source} again")
    return rows
