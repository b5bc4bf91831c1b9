"""Every key of a config as readable lines, straight from its types and descriptions."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from rlhf.config import models_in


@dataclass(frozen=True)
class Key:
    """A key, or a section with keys of its own (`is_section`), which has one entry for each of its kinds."""

    path: str  # dotted; NAME stands for a name of the user's own, 0 for a place in a list
    type: str
    default: str | None  # None: required
    meaning: str
    is_section: bool = False

    def __str__(self) -> str:
        default = " (required)" if self.default is None else f" = {self.default}"
        if self.is_section:
            return f"{self.path}:{default if self.default in (None, 'null') else ''}  # {self.meaning}"
        return f"{self.path}: {self.type}{default}" + (f"   {self.meaning}" if self.meaning else "")


def describe(model: type[BaseModel]) -> Iterator[str]:
    """`path: type = default   meaning`, sections followed by their keys."""
    return map(str, keys(model))


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[Key]:
    """Every key of a config in the order of its fields, sections before their keys."""
    for name, field in model.model_fields.items():
        sections = models_in(field.annotation)
        if not sections:
            yield Key(f"{prefix}{name}", _type(field.annotation), _default(field), field.description or "")
        for section in sections:
            yield from _section(f"{prefix}{name}", section, field, alone=len(sections) == 1)


def _section(path: str, section: type[BaseModel], field: FieldInfo, alone: bool) -> Iterator[Key]:
    path += _within(field.annotation)
    default = _default(field) if alone or not field.is_required() else ""
    first_line = (section.__doc__ or "").strip().split("\n")[0]
    meaning = f"{first_line.removesuffix('.')}; {field.description}" if field.description else first_line
    yield Key(path, "section", default, meaning, is_section=True)
    yield from keys(section, f"{path}.")


def _within(annotation: Any) -> str:
    """What stands between a key and the keys of its sections, where it holds several."""
    return {dict: ".NAME", list: ".0"}.get(get_origin(annotation), "")


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


def _default(field: FieldInfo) -> str | None:
    if field.is_required():
        return None
    value = to_jsonable_python(field.get_default(call_default_factory=True))
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
