"""Checks an object against its schema, and says what is wrong in sentences."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from jsonschema.validators import extend
from referencing import Registry, Resource

from rlhf.cluster.findings import Fault, Path
from rlhf.cluster.kubernetes import definitions
from rlhf.config import suggestion

_SHOWN = 60  # characters of a value in a message
_LIST_SUGGESTED = 12  # a longer list of known fields says nothing
_INTEGERS = {"int32": 2**31, "int64": 2**63}
_NAMES = {
    "object": "a mapping", "array": "a list", "string": "text", "integer": "a whole number", "number": "a number",
    "boolean": "true or false", "null": "null",
}


def structural_faults(schema: Mapping[str, Any], content: Any) -> Iterator[Fault]:
    """Every place where an object breaks its schema, in the order of their paths."""
    validator = _validator_class()(schema, registry=_registry())
    errors = sorted(validator.iter_errors(content), key=lambda error: [str(part) for part in error.absolute_path])
    for error in errors:
        yield from _sentences(error)


@cache
def _registry() -> Registry:
    return Resource.from_contents(definitions()) @ Registry()


@cache
def _validator_class() -> Any:
    """JSON schema, and the three keywords of structural schemas that it has none for."""
    own = {
        "x-kubernetes-list-map-keys": _unique_keys, "x-kubernetes-list-type": _unique_values, "format": _in_range,
    }
    return extend(Draft202012Validator, own)


def _unique_keys(validator: Any, keys: Sequence[str], items: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    """No two elements of a list have the same key; a key that is left out has its default."""
    properties = schema.get("items", {}).get("properties", {})
    seen: dict[tuple[str, ...], int] = {}
    for index, item in enumerate(items if isinstance(items, list) else ()):
        if not isinstance(item, Mapping):
            continue
        values = tuple(str(item.get(key, properties.get(key, {}).get("default"))) for key in keys)
        if values in seen:
            named = ", ".join(f"{key} {value!r}" for key, value in zip(keys, values, strict=True))
            yield ValidationError(f"{named} stands twice; rename or remove one", path=[index], validator="duplicate")
        seen[values] = index


def _unique_values(validator: Any, kind: str, items: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    """A set holds each value once."""
    if kind != "set" or not isinstance(items, list):
        return
    for index, item in enumerate(items):
        if item in items[:index]:
            yield ValidationError(f"{_short(item)} stands twice; remove one", path=[index], validator="duplicate")


def _in_range(validator: Any, name: str, value: Any, schema: Mapping[str, Any]) -> Iterator[Any]:
    limit = _INTEGERS.get(name)
    if limit and isinstance(value, int) and not isinstance(value, bool) and not -limit <= value < limit:
        yield ValidationError(f"{value} does not fit into {name}; give a smaller number", validator="range")


def _sentences(error: ValidationError) -> Iterator[Fault]:
    path: Path = tuple(error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        for key in sorted(set(error.instance) - set(known), key=str):
            yield Fault((*path, str(key)), f"unknown field{_nearest(str(key), known)}")
    elif error.validator == "required":
        for key in error.validator_value:
            if key not in error.instance and f"'{key}'" in error.message:
                yield Fault((*path, key), "required, but not given; add it")
    else:
        yield Fault(path, _WORDS.get(str(error.validator), _as_it_is)(error))


def _nearest(key: str, known: Mapping[str, Any]) -> str:
    found = suggestion(key, known)
    if found.startswith(";") and len(known) > _LIST_SUGGESTED:
        return "; remove it, or move it to the object that has it"
    return found if found.startswith(",") else f"{found}; remove it"


def _type(error: ValidationError) -> str:
    wanted = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
    names = [_NAMES[each] for each in wanted if each != "null"]
    return f"should be {' or '.join(names)}, is {_is(error.instance)}{_how(names, error.instance)}"


def _is(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()}"
    kinds = ((str, "text"), (int, "the number"), (float, "the number"), (list, "a list"), (Mapping, "a mapping"))
    name = next(name for kind, name in kinds if isinstance(value, kind))
    return name if isinstance(value, list | Mapping) else f"{name} {_short(value)}"


def _how(names: Sequence[str], value: Any) -> str:
    """The remedy for a value of the wrong type."""
    if value is None:
        return "; give a value, or remove the field"
    if names == ["text"] and not isinstance(value, list | Mapping):
        return "; put it in quotes"
    if names in (["a whole number"], ["a number"], ["true or false"]) and isinstance(value, str):
        return "; take the quotes away" if value.strip() and _plain(value) else "; write it so"
    if names == ["a list"]:
        return "; begin each element with '- '"
    return "; change it"


def _plain(text: str) -> bool:
    return text in ("true", "false") or text.lstrip("-").replace(".", "", 1).isdigit()


def _enum(error: ValidationError) -> str:
    words = [str(each) for each in error.validator_value if each is not None]
    return f"{_short(error.instance)} is none of {', '.join(words)}{_did_you_mean(str(error.instance), words)}"


def _did_you_mean(word: str, words: Sequence[str]) -> str:
    found = suggestion(word, words)
    return found if found.startswith(",") else "; take one of them"


def _pattern(error: ValidationError) -> str:
    if "numkMGTPE" in error.validator_value:
        return f"{_short(error.instance)} is no quantity; write it like 500m, 4 or 16Gi"
    return f"{_short(error.instance)} does not have the form {error.validator_value}; correct it"


def _union(error: ValidationError) -> str:
    wanted = {kind for part in error.validator_value for kind in _types(part)} - {"null"}
    names = " or ".join(sorted(_NAMES[each] for each in wanted)) or "of another form"
    return f"should be {names}, is {_is(error.instance)}; change it"


def _types(part: Mapping[str, Any]) -> list[str]:
    found = part.get("type", [])
    return [found] if isinstance(found, str) else found


def _limit(error: ValidationError) -> str:
    """minimum, maxLength and their like."""
    words = {
        "minimum": "at least", "maximum": "at most", "minLength": "characters, at least",
        "maxLength": "characters, at most", "minItems": "elements, at least", "maxItems": "elements, at most",
        "minProperties": "fields, at least", "maxProperties": "fields, at most",
    }[str(error.validator)]
    return f"{_short(error.instance)} is outside of what is allowed ({words} {error.validator_value}); change it"


def _as_it_is(error: ValidationError) -> str:
    return error.message if ";" in error.message else f"{error.message}; change it"


_LIMITS = ("minimum", "maximum", "minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_WORDS: dict[str, Callable[[ValidationError], str]] = {
    "type": _type, "enum": _enum, "pattern": _pattern, "anyOf": _union, "oneOf": _union,
    **dict.fromkeys(_LIMITS, _limit),
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
