"""What Kubernetes refuses of its own objects, as far as a run has such ones, beyond their schemas."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import label_faults
from rlhf.cluster.rules.choice import SERVICE_TYPES, choice
from rlhf.cluster.rules.identity import identity_findings
from rlhf.cluster.rules.network import policy_findings
from rlhf.cluster.rules.pod import job_pod_findings, pod_findings
from rlhf.cluster.rules.volume import claim_findings

_KEY = re.compile(r"(?!\.\.?$|\.\.)[-._a-zA-Z0-9]{1,253}")
_TEMPLATES = {  # kind → where its template of pods is
    "Deployment": ("spec", "template"), "ReplicaSet": ("spec", "template"), "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"), "Job": ("spec", "template"), "PodTemplate": ("template",),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}


def core_findings(api_version: str, kind: str, content: Cursor) -> Iterator[Finding]:
    """Every rule of an object that is not Ray's."""
    yield from identity_findings(api_version, kind, content["metadata"])
    if kind in _KINDS:
        yield from _KINDS[kind](content)
    if kind in _TEMPLATES:
        yield from _template(kind, content.at(*_TEMPLATES[kind]))
    if kind != "Pod":
        yield from label_faults(content.at("metadata", "labels"))


def _pod(pod: Cursor) -> Iterator[Finding]:
    yield from _no_container(pod)
    yield from pod_findings(pod)


def _template(kind: str, template: Cursor) -> Iterator[Finding]:
    yield from _no_container(template)
    yield from (job_pod_findings if kind in ("Job", "CronJob") else pod_findings)(template)


def _no_container(pod: Cursor) -> Iterator[Finding]:
    containers = pod["spec"]["containers"]
    if containers.given and not containers:
        yield containers.fault("a pod needs a container; add one")


def _claim(content: Cursor) -> Iterator[Finding]:
    yield from claim_findings(content["spec"])


def _claims(content: Cursor) -> Iterator[Finding]:
    for claim in content["spec"]["volumeClaimTemplates"]:
        yield from claim_findings(claim["spec"])


def _policy(content: Cursor) -> Iterator[Finding]:
    yield from policy_findings(content["spec"])


def _service(content: Cursor) -> Iterator[Finding]:
    yield from choice(content["spec"]["type"], (*SERVICE_TYPES, "ExternalName"))


def _keys(content: Cursor) -> Iterator[Finding]:
    """Keys of a ConfigMap or Secret, which become names of files and variables."""
    for part in ("data", "binaryData", "stringData"):
        for entry in content[part]:
            if not _KEY.fullmatch(entry.key):
                yield entry.fault(f"'{entry.key}' is no key; take letters, digits, '-', '_' and '.', no '..' first")


_KINDS: dict[str, Callable[[Cursor], Iterator[Finding]]] = {
    "Pod": _pod, "PersistentVolumeClaim": _claim, "StatefulSet": _claims, "NetworkPolicy": _policy,
    "Service": _service, "ConfigMap": _keys, "Secret": _keys,
}
