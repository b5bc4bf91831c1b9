"""Typed configs: YAML files merged left to right, dotted overrides last, then one validation.

Every problem of a config is reported at once, each with its full path, and an unknown key with
the nearest known one. Nothing is interpolated and no environment variable is read.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    GetJsonSchemaHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rlhf.errors import ConfigError

LARGEST = 2**31 - 1  # of a whole number without a bound of its own: what C, torch and vLLM take
LONGEST_S = 1_000_000  # of a time, seconds: sockets wait for no longer than 24 days, locks for no longer than 292 years
LARGEST_SEED = 2**32 - 1  # of numpy


class Config(BaseModel):
    """Base of every config section: frozen, strict about unknown keys, and without numbers that nothing can take."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, protected_namespaces=(),
                              allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, content: Any) -> Any:
        """`steps: yes` would be one step. As a word it is refused, at its own path beside all other problems."""
        if not isinstance(content, Mapping):
            return content
        numbers = _number_keys(cls)
        return {
            key: str(value).lower() if isinstance(value, bool) and key in numbers else value
            for key, value in content.items()
        }

    @field_validator("*")
    @classmethod
    def _is_no_larger_than_can_be_taken(cls, value: Any, info: ValidationInfo) -> Any:
        largest = _largest(cls).get(info.field_name or "")
        if largest is not None and value is not None and value > largest:
            raise ValueError(f"should be less than or equal to {largest}")
        return value

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """With the bounds that the validator above adds."""
        schema = handler(core)
        properties = handler.resolve_ref_schema(schema).get("properties", {})
        for name, largest in _largest(cls).items():
            properties[name]["maximum"] = largest
        return schema


@cache
def _number_keys(section: type[BaseModel]) -> frozenset[str]:
    """The keys of a section that hold a number; one plan validates thousands of configs."""
    return frozenset(name for name, field in section.model_fields.items() if _wants_number(field))


@cache
def _largest(section: type[BaseModel]) -> Mapping[str, int]:
    """The largest values of the keys that hold a whole number or a time (`…_s`), and have no such bound themselves."""
    found: dict[str, int] = {}
    for name, field in section.model_fields.items():
        if _wants_number(field) and not any(hasattr(bound, "le") or hasattr(bound, "lt") for bound in field.metadata):
            if name.endswith("_s"):
                found[name] = LONGEST_S
            elif int in {field.annotation, *get_args(field.annotation)}:
                found[name] = LARGEST
    return found


def _wants_number(field: FieldInfo) -> bool:
    kinds = {field.annotation, *get_args(field.annotation)}
    return bool(kinds & {int, float}) and bool not in kinds


_SHOWN = 100  # characters of a value in a message
ConfigT = TypeVar("ConfigT", bound=Config)


class _UniqueKeyLoader(yaml.SafeLoader):
    """SafeLoader that refuses a mapping with the same key twice, and reads `1e-6` as a number."""


def _construct_unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode, deep: bool = False) -> dict:
    seen: set[Any] = set()
    for key_node, _ in node.value:
        key = loader.construct_object(key_node, deep=True)
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"key '{key}' stands twice", key_node.start_mark)
        seen.add(key)
    return yaml.SafeLoader.construct_mapping(loader, node, deep=deep)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_unique_mapping)
_UniqueKeyLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def read_yaml(path: Path | str) -> dict[str, Any]:
    """Read one YAML mapping; raises ConfigError with file and line when it is not one."""
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_UniqueKeyLoader)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as a config file ({error})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else str(path)
        said = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML: {said}") from None
    except RecursionError:
        raise ConfigError(f"{path}: not readable as a config file (nested too deep)") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: a config file holds a mapping of keys, this one holds a {type(content).__name__}")
    return content


def parse_override(text: str) -> dict[str, Any]:
    """`a.b=1` → `{"a": {"b": 1}}`; the value is read as YAML."""
    path, separator, raw = text.partition("=")
    keys = path.split(".")
    if not separator or not all(keys):
        raise ConfigError(f"override {_short(text)}: write it as key.sub=value")
    try:
        value = yaml.load(raw, Loader=_UniqueKeyLoader) if raw.strip() else None
    except yaml.YAMLError:
        value = raw
    for key in reversed(keys):
        value = {key: value}
    return value


def merge(base: Mapping[str, Any], update: Mapping[str, Any]) -> dict[str, Any]:
    """Merge mappings key by key; a section whose `kind` changes is replaced whole."""
    merged = dict(base)
    for key, value in update.items():
        old = merged.get(key)
        if isinstance(old, Mapping) and isinstance(value, Mapping) and not _kind_changes(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _kind_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "kind" in new and old.get("kind") != new["kind"]


def read_merged(files: Iterable[Path | str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The raw mapping of `files` merged left to right, then `key.sub=value` overrides."""
    merged: dict[str, Any] = {}
    for file in files:
        merged = merge(merged, read_yaml(file))
    for override in overrides:
        merged = merge(merged, parse_override(override))
    return merged


def validate(model: type[ConfigT], content: Mapping[str, Any], prefix: str = "") -> ConfigT:
    """Validate once; raises ConfigError that lists every problem with its path."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError("\n".join(problems(model, error, prefix))) from None


def problems(model: type[BaseModel], error: ValidationError, prefix: str = "") -> list[str]:
    """One line per problem: `path: what is wrong (remedy)`."""
    return [_describe(model, item, prefix) for item in error.errors(include_url=False)]


def load(model: type[ConfigT], files: Iterable[Path | str], overrides: Sequence[str] = ()) -> ConfigT:
    """Files, overrides, one validation. Raises ConfigError."""
    return validate(model, read_merged(files, overrides))


def dump(config: Config) -> str:
    """The resolved config as YAML, every default spelled out; `load` reads it back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def suggestion(word: str, known: Iterable[str]) -> str:
    """What to say behind an unknown word: the nearest known one, else all of them."""
    close = difflib.get_close_matches(word, known := sorted(known), n=1, cutoff=0.6)
    return f", did you mean '{close[0]}'?" if close else f"; known here: {', '.join(known) or 'nothing'}"


def _describe(model: type[BaseModel], item: Mapping[str, Any], prefix: str) -> str:
    location = item["loc"]
    path = prefix + ".".join(str(part) for k, part in enumerate(location) if not _is_tag(model, location, k))
    kind, details = item["type"], item.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{path}: unknown key{suggestion(str(location[-1]), _section(model, location[:-1]))}"
    if kind == "missing":
        return f"{path}: required, but not given"
    if kind == "union_tag_not_found":
        return f"{path}.kind: required, but not given; one of {', '.join(sorted(_tags(_annotation(model, location))))}"
    if kind == "union_tag_invalid":
        known = details["expected_tags"].replace("'", "").split(", ")
        tag = details["tag"]
        return f"{path}.kind: {_short(tag)} is unknown{suggestion(tag, known)}"
    message = item["msg"].removeprefix("Value error, ").removeprefix("Input ")
    if kind == "value_error" and not path:
        return message
    got = item.get("input")
    if kind.endswith("_parsing"):
        message = message.split(",")[0]
    is_secret = "password" in message
    shown = "" if is_secret or isinstance(got, Mapping | BaseModel) else f" (got {_short(got)})"
    return f"{path or 'config'}: {message[:1].lower() + message[1:]}{shown}"


def _is_tag(model: type[BaseModel], location: Sequence[Any], index: int) -> bool:
    """Whether part `index` is the tag that pydantic inserts for a section chosen by `kind`."""
    part = location[index]
    return index > 0 and isinstance(part, str) and part in _tags(_annotation(model, location[:index]))


def _tags(annotation: Any) -> set[str]:
    tags: set[str] = set()
    for candidate in models_in(annotation):
        field = candidate.model_fields.get("kind")
        tags.update(str(value) for value in get_args(field.annotation)) if field else None
    return tags


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every config section that an annotation allows."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models_in(part)]


def _annotation(model: type[BaseModel], location: Sequence[Any]) -> Any:
    current: Any = model
    for part in location:
        candidates = models_in(current)
        fields = [c.model_fields[part] for c in candidates if isinstance(part, str) and part in c.model_fields]
        if fields:
            current = fields[0].annotation
        elif isinstance(part, str) and part in _tags(current):
            current = next(c for c in candidates if part in _tags(c))
    return current


def _section(model: type[BaseModel], location: Sequence[Any]) -> set[str]:
    """The keys that are known at `location`."""
    return {name for candidate in models_in(_annotation(model, location)) for name in candidate.model_fields}


def _short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
