"""Every key of a config as readable lines, straight from its types and descriptions."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from rlhf.config import models_in


def describe(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """`path: type = default   meaning`, sections followed by their keys."""
    for name, field in model.model_fields.items():
        path = f"{prefix}{name}"
        sections = models_in(field.annotation)
        if not sections:
            yield f"{path}: {_type(field.annotation)}{_default(field)}{_meaning(field.description)}"
            continue
        for section in sections:
            first_line = (section.__doc__ or "").strip().split("\n")[0]
            required = " (required)" if field.is_required() and len(sections) == 1 else ""
            yield f"{path}:{required}  # {first_line}"
            yield from describe(section, f"{path}.")


def _type(annotation: Any) -> str:
    """A type in the words of the config files: `list of text`, `a | b | null`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(parts[0])
    if origin in (Union, types.UnionType):
        return " | ".join(_type(part) for part in parts)
    if origin is Literal:
        return " | ".join(str(part) for part in parts)
    if origin in (list, set) or (origin is tuple and parts[-1] is Ellipsis):
        return f"list of {_type(parts[0])}"
    if origin is tuple:
        return f"[{', '.join(_type(part) for part in parts)}]"
    if origin is dict:
        return f"{{{_type(parts[0])}: {_type(parts[1])}}}"
    known = {str: "text", type(None): "null", int: "integer", float: "number", bool: "true | false", Any: "anything"}
    return known.get(annotation, getattr(annotation, "__name__", str(annotation)).lower())


def _default(field: Any) -> str:
    if field.is_required():
        return " (required)"
    value = to_jsonable_python(field.get_default(call_default_factory=True))
    return f" = {value}" if isinstance(value, str) else f" = {json.dumps(value, ensure_ascii=False)}"


def _meaning(description: str | None) -> str:
    return f"   {description}" if description else ""
