"""Rules of who may talk to a cluster: token authentication, network policy, TLS."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import is_dns_1123, version
from rlhf.cluster.rules.environment import HEAD, container_of, variable
from rlhf.cluster.rules.network import rule_findings

TOKENS_SINCE = (2, 52, 0)
_KUBERNETES_TOKENS_SINCE = (2, 55, 0)
_TLS_VARIABLES = ("RAY_USE_TLS", "RAY_TLS_SERVER_CERT", "RAY_TLS_SERVER_KEY", "RAY_TLS_CA_CERT")
_TLS_VOLUME, _TLS_PATH = "ray-tls", "/etc/ray/tls"  # the operator's own
_UNRESTRICTED = {"DenyAllEgress": "ingressRules", "DenyAllIngress": "egressRules"}  # what a mode leaves open


def access_findings(spec: Cursor) -> Iterator[Finding]:
    """Every rule of access to a cluster."""
    yield from _tokens(spec)
    if spec["networkPolicy"].given:
        yield from _network(spec)
    if spec["tlsOptions"].given:
        yield spec["tlsOptions"].advice("needs the operator's feature gate RayClusterMTLS; switch it on there")
    if spec.at("tlsOptions", "enabled").value is True:
        yield from _tls(spec)


def _tokens(spec: Cursor) -> Iterator[Finding]:
    options, ray = spec["authOptions"], spec["rayVersion"]
    kubernetes = options["enableK8sTokenAuth"]
    if options["mode"].value != "token":
        if kubernetes.value is True:
            yield kubernetes.fault("needs mode: token; set it, or remove this")
        return
    number = version(ray.text)
    if number is None:
        yield ray.fault("authOptions.mode 'token' needs to know Ray's version; give rayVersion, 2.52.0 or later")
    elif number < TOKENS_SINCE:
        yield ray.fault(f"Ray {ray.text} has no token authentication; take 2.52.0 or later")
    elif kubernetes.value is True and number < _KUBERNETES_TOKENS_SINCE:
        yield ray.fault(f"Ray {ray.text} does not take Kubernetes' tokens; 2.55.0 and later do")
    if kubernetes.value is True and options["secretName"]:
        yield options["secretName"].fault("enableK8sTokenAuth is set, too; keep one of the two")


def _network(spec: Cursor) -> Iterator[Finding]:
    policy = spec["networkPolicy"]
    yield policy.advice("needs the operator's feature gate RayClusterNetworkPolicy; switch it on there")
    closed = _UNRESTRICTED.get(policy["mode"].text, "")
    names = {group["groupName"].text for group in spec["workerGroupSpecs"]}
    for part in (policy["head"], policy["worker"], *policy["workerGroups"]):
        if closed and part[closed]:
            yield part[closed].fault(f"mode {policy['mode'].text} does not restrict these; remove them, or use DenyAll")
        yield from rule_findings(part["ingressRules"], part["egressRules"])
    for group in policy["workerGroups"]:
        if group["groupName"].text not in names:
            yield group["groupName"].fault(
                f"'{group['groupName'].text}' is no worker group of this cluster (it has {', '.join(sorted(names))})"
                "; correct it"
            )
    for group in spec["workerGroupSpecs"]:
        if not is_dns_1123(group["groupName"].text):
            yield group["groupName"].fault(
                "becomes a part of a network policy's name; use lower-case letters, digits and '-'"
            )


def _tls(spec: Cursor) -> Iterator[Finding]:
    containers = [container_of(group) for group in (spec[HEAD], *spec["workerGroupSpecs"])]
    for holder in (*containers, spec["autoscalerOptions"]):
        for name in _TLS_VARIABLES:
            entry = variable(holder, name)
            if entry is not None:
                yield entry.fault("is set by the operator while tlsOptions is on; remove it")
        for mount in holder["volumeMounts"]:
            if mount["name"].value == _TLS_VOLUME or mount["mountPath"].value == _TLS_PATH:
                yield mount.fault(f"'{_TLS_VOLUME}' at {_TLS_PATH} is the operator's; choose another name and path")
