"""What Kubernetes refuses of one container of a pod."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import is_dns_1123, quantity
from rlhf.cluster.rules.choice import PROTOCOLS, choice
from rlhf.cluster.rules.handlers import handler_findings
from rlhf.cluster.rules.profiles import profile_findings

_PULL = ("Always", "IfNotPresent", "Never")
_FROM_OPERATOR = ("shared-mem", "ray-logs", "ray-tls", "gcs-storage", "ray-token")  # volumes that the operator adds
_OWN = ("cpu", "memory", "ephemeral-storage")  # resources that may be asked for below their limit
_PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]+(-[a-z0-9]+)*")
_LONGEST_PORT_NAME = 15


def container_findings(container: Cursor, volumes: set[str]) -> Iterator[Finding]:
    """Every rule of a container of a pod with these volumes."""
    if container["name"].given and not is_dns_1123(container["name"].text):
        yield container["name"].fault("is no name of a container; take at most 63 lower-case letters, digits and '-'")
    if not container["image"]:
        yield container["image"].fault("required, but not given; name the container's image")
    yield from choice(container["imagePullPolicy"], _PULL)
    yield from _mounts(container, volumes)
    yield from _ports(container)
    for entry in container["env"]:
        if entry["value"] and entry["valueFrom"].given:
            yield entry["valueFrom"].fault(f"'{entry['name'].text}' has a value, too; keep one of the two")
    yield from _resources(container["resources"])
    yield from handler_findings(container)
    yield from profile_findings(container["securityContext"])


def _mounts(container: Cursor, volumes: set[str]) -> Iterator[Finding]:
    paths: set[str] = set()
    for mount in container["volumeMounts"]:
        name, path = mount["name"], mount["mountPath"]
        if name.text and name.text not in volumes and name.text not in _FROM_OPERATOR:
            known = ", ".join(sorted(volumes)) or "none"
            yield name.fault(f"no volume '{name.text}' in this pod (there: {known}); add it, or correct the name")
        if path.text in paths and not mount["subPath"]:
            yield path.fault(f"'{path.text}' is mounted twice; mount one volume there")
        paths.add(path.text)


def _ports(container: Cursor) -> Iterator[Finding]:
    names: set[str] = set()
    for port in container["ports"]:
        number, name = port["containerPort"].number, port["name"]
        if number is not None and not 0 < number < 65536:
            yield port["containerPort"].fault(f"{number} is no port; give 1 to 65535")
        yield from choice(port["protocol"], PROTOCOLS)
        if not name.text:
            continue
        if len(name.text) > _LONGEST_PORT_NAME or not _PORT_NAME.fullmatch(name.text):
            yield name.fault(
                f"'{name.text}' is no name of a port; take at most {_LONGEST_PORT_NAME} lower-case letters, digits "
                "and single '-', a letter among them"
            )
        if name.text in names:
            yield name.fault(f"'{name.text}' names two ports of this container; rename one")
        names.add(name.text)


def _resources(resources: Cursor) -> Iterator[Finding]:
    requests, limits = resources["requests"], resources["limits"]
    for name in dict.fromkeys([*requests.keys, *limits.keys]):
        asked, limit = quantity(requests[name].value), quantity(limits[name].value)
        if asked is not None and limit is not None and asked > limit:
            yield requests[name].fault(f"{requests[name].value} is more than the limit {limits[name].value}; lower it")
        elif name not in _OWN and "/" in name:
            yield from _extended(requests[name], limits[name])


def _extended(asked: Cursor, limit: Cursor) -> Iterator[Finding]:
    """A device: whole, and asked for in the amount of its limit."""
    if not limit.given:
        yield asked.fault(f"{asked.key} needs a limit of the same number; add it to limits")
        return
    number, wanted = quantity(limit.value), quantity(asked.value)
    if number is not None and number != int(number):
        yield limit.fault(f"{limit.value} of {limit.key} cannot be had; give a whole number")
    if wanted is not None and number is not None and wanted != number:
        yield asked.fault(f"{asked.value} is not the limit {limit.value}; {asked.key} needs both alike")
