"""The tables of keys in docs/keys.md: Markdown from the configs' own types."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from rlhf.cli import STAGES, load_object
from rlhf.keys import Key, keys
from rlhf.pipeline import PipelineConfig


def key_tables() -> str:
    """One section of Markdown per stage, and one for pipelines."""
    parts = [_part(name, stage.summary, load_object(stage.config)) for name, stage in STAGES.items()]
    return "\n\n".join([*parts, _part("run", "Run the stages of a pipeline.", PipelineConfig)]) + "\n"


def _part(name: str, summary: str, model: type[BaseModel]) -> str:
    return "\n".join([f"## `{name}`", "", summary, "", *_table(model)])


def _table(model: type[BaseModel]) -> Iterator[str]:
    yield "| key | type | default | meaning |"
    yield "|---|---|---|---|"
    for key in keys(model):
        yield f"| {' | '.join(map(_cell, _cells(key)))} |"


def _cells(key: Key) -> tuple[str, str, str, str]:
    default = "required" if key.default is None else _code(key.default)
    if key.is_section:
        return f"**{_code(key.path)}**", "section", default if key.default in (None, "null") else "", key.meaning
    return _code(key.path), key.type, default, key.meaning


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
