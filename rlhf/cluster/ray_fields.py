"""Which options `ray start` has, and which fields Ray Serve's config has: of the pinned Ray, without importing it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class RayFields:
    """What `cluster/ray_fields.py` wrote down."""

    version: str
    start: dict[str, str]  # option → switch, integer or text
    serve: dict[str, Any]  # field → the fields inside it; None where anything may stand


@cache
def ray_fields() -> RayFields:
    """The shipped file."""
    return RayFields(**json.loads(files("rlhf.cluster").joinpath("schemas", "ray.json").read_text(encoding="utf-8")))
