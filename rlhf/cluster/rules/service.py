"""Rules of a RayService."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.cluster import ClusterSpec, cluster_findings, manager_findings
from rlhf.cluster.rules.environment import HEAD
from rlhf.cluster.rules.serve import serve_findings

_TIMEOUT = "ray.io/initializing-timeout"
_UPGRADES = ("NewClusterWithIncrementalUpgrade", "NewCluster", "None")
_DURATION = re.compile(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+")  # of Go


def service_findings(service: Cursor, annotations: Cursor) -> Iterator[Finding]:
    """Every rule of a RayService's spec."""
    cluster, timeout = service["rayClusterConfig"], annotations[_TIMEOUT]
    if timeout.text and not _is_positive(timeout.text):
        yield timeout.fault(f"'{timeout.text}' is no time to wait; write it like 5m, 1h or 300")
    if cluster.at("authOptions", "enableK8sTokenAuth").value is True:
        yield cluster.at("authOptions", "enableK8sTokenAuth").fault("a RayService has none of it yet; remove it")
    name = cluster.at(HEAD, "headService", "metadata", "name")
    if name:
        yield name.fault("the operator names the head's service of a RayService; remove it")
    delay = service["rayClusterDeletionDelaySeconds"]
    if delay.number is not None and delay.number < 0:
        yield delay.fault(f"{delay.number} is negative; give seconds, 0 or more")
    yield from manager_findings(service["managedBy"])
    yield from _upgrade(service)
    yield from serve_findings(service["serveConfigV2"], cluster["rayVersion"])
    yield from cluster_findings(ClusterSpec(cluster, annotations))


def _is_positive(text: str) -> bool:
    if _DURATION.fullmatch(text):
        return any(digit in "123456789" for digit in text)
    return text.isdigit() and int(text) > 0


def _upgrade(service: Cursor) -> Iterator[Finding]:
    strategy = service["upgradeStrategy"]
    kind, options = strategy["type"], strategy["clusterUpgradeOptions"]
    if kind.given and kind.value not in _UPGRADES:
        yield kind.fault(f"'{kind.value}' is none of {', '.join(_UPGRADES)}; take one of them")
    if kind.value != _UPGRADES[0]:
        return
    if service.at("rayClusterConfig", "enableInTreeAutoscaling").value is not True:
        yield kind.fault("needs rayClusterConfig.enableInTreeAutoscaling: true; set it, or take NewCluster")
    if not options.given:
        yield options.fault("required, but not given; add it")
        return
    surge, step, interval = options["maxSurgePercent"], options["stepSizePercent"], options["intervalSeconds"]
    most = 100 if surge.number is None else surge.number
    for percent in (surge, step):
        if percent.number is not None and not 0 <= percent.number <= 100:
            yield percent.fault(f"{percent.number} is no percentage; give 0 to 100")
    if step.number is None or step.number > most:
        yield step.fault(f"{step.value} is no step; give a percentage of at most maxSurgePercent {most:g}")
    if interval.number is None or interval.number <= 0:
        yield interval.fault(f"{interval.value} is no time to wait; give seconds, 1 or more")
    if not options["gatewayClassName"].text:
        yield options["gatewayClassName"].fault("required, but not given; name the gateway class")
