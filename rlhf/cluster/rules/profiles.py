"""What Kubernetes refuses of the seccomp and AppArmor profiles of a pod or container."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.choice import choice

_LOCAL = "Localhost"
_TYPES = ("RuntimeDefault", _LOCAL, "Unconfined")


def profile_findings(context: Cursor) -> Iterator[Finding]:
    """Every rule of the profiles of a security context."""
    for name in ("seccompProfile", "appArmorProfile"):
        profile = context[name]
        kind, file = profile["type"], profile["localhostProfile"]
        yield from choice(kind, _TYPES)
        if kind.value == _LOCAL and not file:
            yield file.fault("type Localhost needs it; name the profile on the node")
        elif kind.value in _TYPES and kind.value != _LOCAL and file.given:
            yield file.fault(f"belongs to type Localhost (here: {kind.value}); remove it, or take Localhost")
