"""What Kubernetes refuses of the hooks and probes of a container."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.choice import one_of

_HOOKS = ("postStart", "preStop")
_OF_A_HOOK = ("exec", "httpGet", "tcpSocket", "sleep")
_PROBES = ("livenessProbe", "readinessProbe", "startupProbe")
_OF_A_PROBE = ("exec", "httpGet", "tcpSocket", "grpc")
_COUNTS = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")


def handler_findings(container: Cursor) -> Iterator[Finding]:
    """Every rule of a container's hooks and probes."""
    for name in _HOOKS:
        hook = container["lifecycle"][name]
        if hook.given:
            yield from one_of(hook, _OF_A_HOOK, "handler")
    for name in _PROBES:
        if container[name].given:
            yield from _probe(container[name])


def _probe(probe: Cursor) -> Iterator[Finding]:
    yield from one_of(probe, _OF_A_PROBE, "handler")
    for name in _COUNTS:
        count = probe[name]
        if count.number is not None and count.number < 0:
            yield count.fault(f"{count.number} is negative; give 1 or more, or remove it")
    success = probe["successThreshold"]
    if probe.key != "readinessProbe" and success.number is not None and success.number > 1:
        yield success.fault(f"a {probe.key} succeeds once (here: {success.number}); set it to 1, or remove it")
