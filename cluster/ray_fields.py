"""Writes down which options `ray start` has and which fields Ray Serve's config has, from the installed Ray.

    python cluster/ray_fields.py rlhf/cluster/schemas/ray.json

`rlhf cluster validate` reads that file, so that it needs no Ray. Run it again when Ray's version changes.
"""

import json
import sys
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import ray
from pydantic import BaseModel
from ray.scripts.scripts import start
from ray.serve.schema import ServeDeploySchema


def options() -> dict[str, str]:
    """Option of `ray start` → "switch", "integer" or "text"."""
    found = {}
    for option in start.params:
        kind = "switch" if option.is_flag else "integer" if option.type is click.INT else "text"
        found.update({word.removeprefix("--"): kind for word in option.opts if word.startswith("--")})
    return found


def fields(model: type[BaseModel]) -> dict[str, Any]:
    """Field → the fields inside it, null where it holds no model: lists of models count as the model."""
    return {
        name: next((fields(inner) for inner in _models(field.annotation)), None)
        for name, field in model.model_fields.items()
    }


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def text() -> str:
    """The file."""
    content = {"version": ray.__version__, "start": options(), "serve": fields(ServeDeploySchema)}
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")
