"""Rules of `rayStartParams`, which the operator hands to `ray start` as options."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import version
from rlhf.cluster.ray_fields import ray_fields
from rlhf.config import suggestion

_EARLIER = ("storage", "plasma-store-socket-name", "raylet-socket-name", "dashboard-grpc-port")  # gone since
_INTEGER = re.compile(r"[+-]?[0-9]+")
_BYTES = ("memory", "object-store-memory", "system-reserved-memory")


def start_findings(params: Cursor, ray: Cursor) -> Iterator[Finding]:
    """Every rule of a group's options; `ray`: the version that the cluster names."""
    known = ray_fields()
    newer = (version(ray.text) or (0,)) > (version(known.version) or (0,))
    for param in params:
        kind = known.start.get(param.key)
        if kind is not None:
            yield from _value(param, kind)
        elif not newer and param.key not in _EARLIER:
            yield param.fault(f"`ray start` has no option --{param.key}{_remedy(param.key, known.start)}")


def _remedy(key: str, known: dict[str, str]) -> str:
    near = suggestion(key, known)
    return near if near.startswith(",") else "; remove it, or correct the name"


def _value(param: Cursor, kind: str) -> Iterator[Finding]:
    """The operator's shell sees the value, so that a variable may stand in it."""
    text = param.text.strip("'\"")
    if not text or "$" in text:
        return
    if kind == "integer" and not _INTEGER.fullmatch(text):
        how = "bytes as a whole number, \"8589934592\" for 8 GiB" if param.key in _BYTES else "a whole number"
        yield param.fault(f"'{param.text}' is no whole number; give {how}")
    elif kind == "switch" and text.lower() not in ("true", "false"):
        yield param.fault(f"'{param.text}' is neither true nor false; give one of them")
