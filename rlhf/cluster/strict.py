"""Schemas of custom resources as JSON schema, stricter than the API server, which drops unknown fields in silence.

The rules of structural schemas are those of apiextensions.k8s.io/v1 (Kubernetes documentation, "Extend the Kubernetes
API with CustomResourceDefinitions"). CEL rules are not here: `rlhf.cluster.rules` has what those of KubeRay say.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from rlhf.cluster.kubernetes import OBJECT_META


@dataclass(frozen=True)
class CustomKind:
    """A custom resource: where its schema is from, and the strict schema."""

    source: str
    deprecated: bool
    namespaced: bool
    schema: dict[str, Any]


@cache
def _condensed() -> dict[str, tuple[str, dict[str, Any]]]:
    """`group/version/Kind` → project and version that it is from, and what the condensed file has of it."""
    found = {}
    for file in sorted(files("rlhf.cluster").joinpath("schemas").iterdir(), key=lambda each: each.name):
        if file.name.endswith(".json.gz"):
            content = json.loads(gzip.decompress(file.read_bytes()))
            source = f"{content['project']} {content['version']}"
            found.update({name: (source, kind) for name, kind in content["kinds"].items()})
    return found


def custom_kinds() -> list[str]:
    """`group/version/Kind` of every custom resource that can be checked."""
    return list(_condensed())


@cache
def custom_kind(name: str) -> CustomKind | None:
    """The strict schema of `group/version/Kind`; None for one that is not known."""
    if name not in _condensed():
        return None
    source, kind = _condensed()[name]
    schema = strict(kind["schema"])
    schema["properties"]["metadata"] = {"$ref": OBJECT_META}
    schema["required"] = [*{*schema.get("required", ()), "apiVersion", "kind", "metadata"}]
    return CustomKind(source, kind["deprecated"], kind["namespaced"], schema)


def strict(schema: Any) -> Any:
    """A structural schema as JSON schema that knows no field beside its own."""
    if not isinstance(schema, Mapping):
        return schema
    found = {key: _part(key, value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        found.setdefault("additionalProperties", False)
    if "required" in schema:
        found["required"] = list(_without_default(schema))
    if schema.get("x-kubernetes-int-or-string"):
        found.setdefault("anyOf", [{"type": "integer"}, {"type": "string"}])
    return {"anyOf": [{"type": "null"}, found]} if schema.get("nullable") else found


def _part(key: str, value: Any) -> Any:
    if key == "properties":
        return {name: strict(each) for name, each in value.items()}
    if key in ("items", "additionalProperties", "not"):
        return strict(value)
    return [strict(each) for each in value] if key in ("anyOf", "allOf", "oneOf") else value


def _without_default(schema: Mapping[str, Any]) -> Iterator[str]:
    """The API server fills in defaults before it looks for what is required."""
    for name in schema["required"]:
        if "default" not in schema.get("properties", {}).get(name, {}):
            yield name
