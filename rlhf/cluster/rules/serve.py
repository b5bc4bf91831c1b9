"""Rules of `serveConfigV2`, the text with Ray Serve's own config: what a schema of strings cannot see."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from rlhf.cluster.findings import Cursor, Finding, dotted
from rlhf.cluster.names import version
from rlhf.cluster.ray_fields import ray_fields
from rlhf.config import suggestion

_IMPORT = re.compile(r"[^\s:]+[:.][A-Za-z_]\w*")


def serve_findings(config: Cursor, ray: Cursor) -> Iterator[Finding]:
    """Every rule of the text; `ray`: the version that the cluster names."""
    if not config.text.strip():
        return
    try:
        content = Cursor(yaml.safe_load(config.text))
    except (yaml.YAMLError, ValueError) as error:
        yield config.fault(f"not valid YAML: {str(error).splitlines()[0]}; correct it")
        return
    applications = content["applications"]
    if not applications:
        yield config.fault("has no applications; list one with name and import_path")
    yield from _twice(config, applications)
    for application in applications:
        if not _IMPORT.fullmatch(application["import_path"].text):
            yield config.fault(
                f"application '{application['name'].text}': import_path '{application['import_path'].text}' is no "
                f"module:attribute; correct it"
            )
    known = ray_fields()
    if (version(ray.text) or (0,)) <= (version(known.version) or (0,)):
        for sentence in _unknown(content, known.serve):
            yield config.fault(sentence)


def _twice(config: Cursor, applications: Cursor) -> Iterator[Finding]:
    """Names and routes belong to one application each."""
    for field, default in (("name", None), ("route_prefix", "/")):
        seen: set[str] = set()
        for application in applications:
            value = application[field].text or default
            if value in seen and not (field == "route_prefix" and application[field].value is None):
                yield config.fault(f"two applications have the {field} '{value}'; change one")
            seen.add(value or "")


def _unknown(content: Cursor, known: Mapping[str, Any]) -> Iterator[str]:
    """Keys that Serve drops in silence, or refuses."""
    for key in content.keys:
        if key not in known:
            near = suggestion(key, known)
            remedy = near if near.startswith(",") else f"{near}; remove it"
            yield f"{dotted((*content.path, key))}: unknown key of Ray Serve{remedy}"
        elif known[key] is not None:
            inner = content[key]
            for each in inner if isinstance(inner.value, list) else [inner]:
                yield from _unknown(each, known[key])
