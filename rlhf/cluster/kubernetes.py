"""Schemas of the core objects (ConfigMap, Service, …), from the package `kubernetes-validate`, which ships those of
every release of Kubernetes, strict ones among them."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any

RELEASE = "1.37"
_DEFINITIONS = "https://kubernetes.io/api/_definitions.json"
OBJECT_META = f"{_DEFINITIONS}#/$defs/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"


@cache
def definitions() -> dict[str, Any]:
    """The strict definitions of Kubernetes 1.37, under their own address."""
    file = files("kubernetes_validate") / "kubernetes-json-schema" / f"v{RELEASE}.0-local-strict" / "_definitions.json"
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def _index() -> dict[tuple[str, str], str]:
    """(apiVersion, kind) → name of its definition."""
    found = {}
    for name, definition in definitions()["$defs"].items():
        for each in definition.get("x-kubernetes-group-version-kind", ()):
            version = f"{each['group']}/{each['version']}".removeprefix("/")
            found[version, each["kind"]] = name
    return found


def core_kind(api_version: str, kind: str) -> dict[str, Any] | None:
    """A schema that refers to the object's definition; None where Kubernetes has no such object."""
    name = _index().get((api_version, kind))
    return None if name is None else {"$ref": f"{_DEFINITIONS}#/$defs/{name}", "required": ["metadata"]}


def core_kinds(group: str) -> dict[str, list[str]]:
    """Kind → its versions, of one of Kubernetes's own API groups ("" is the first one)."""
    found: dict[str, list[str]] = {}
    for version, kind in sorted(_index()):
        if version.rpartition("/")[0] == group and not kind.endswith("List"):
            found.setdefault(kind, []).append(version)
    return found
