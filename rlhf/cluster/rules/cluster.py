"""Rules of a RayCluster's spec, which RayJob, RayService and RayCronJob hold, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import label_faults
from rlhf.cluster.rules.access import access_findings
from rlhf.cluster.rules.autoscaling import autoscaling_findings
from rlhf.cluster.rules.choice import SERVICE_TYPES, choice
from rlhf.cluster.rules.environment import HEAD
from rlhf.cluster.rules.pod import pod_findings
from rlhf.cluster.rules.start import start_findings
from rlhf.cluster.rules.storage import storage_findings

_SIZES = ("num-cpus", "num-gpus", "memory", "resources")
_MANAGERS = ("ray.io/kuberay-operator", "kueue.x-k8s.io/multikueue")


@dataclass(frozen=True)
class ClusterSpec:
    """A cluster's spec and the annotations of the object that holds it."""

    spec: Cursor
    annotations: Cursor

    @property
    def workers(self) -> Iterator[Cursor]:
        return iter(self.spec["workerGroupSpecs"])


def cluster_findings(cluster: ClusterSpec) -> Iterator[Finding]:
    """Every rule of a cluster's spec."""
    spec = cluster.spec
    for group in (spec[HEAD], *cluster.workers):
        yield from _group_findings(group)
        yield from start_findings(group["rayStartParams"], spec["rayVersion"])
    for kind in (spec[HEAD]["serviceType"], spec.at(HEAD, "headService", "spec", "type")):
        yield from choice(kind, SERVICE_TYPES)
    for group in cluster.workers:
        yield from _replica_findings(group)
    yield from _group_names(cluster)
    yield from manager_findings(spec["managedBy"])
    yield from autoscaling_findings(spec)
    yield from storage_findings(spec, cluster.annotations)
    yield from access_findings(spec)


def manager_findings(manager: Cursor) -> Iterator[Finding]:
    """A CEL rule of the definition."""
    if manager and manager.value not in _MANAGERS:
        yield manager.fault(f"'{manager.value}' is none of {', '.join(_MANAGERS)}; take one of them")


def _group_findings(group: Cursor) -> Iterator[Finding]:
    """The head group or a worker group."""
    containers = group.at("template", "spec", "containers")
    if group.given and not containers:
        yield containers.fault("a group needs a container, the first of which runs Ray; add one")
    params, resources = group["rayStartParams"], group["resources"]
    sizes = [name for name in _SIZES if params[name]]
    if sizes and resources:
        yield resources.fault(f"sizes stand here and in rayStartParams ({', '.join(sizes)}); keep one of the two")
    if params["labels"].given:
        yield params["labels"].fault("labels are not passed on from here; give them in the group's field labels")
    yield from label_faults(group["labels"])
    yield from pod_findings(group["template"])


def _replica_findings(group: Cursor) -> Iterator[Finding]:
    least, most, wanted = group["minReplicas"], group["maxReplicas"], group["replicas"]
    for bound in (least, most, wanted, group["numOfHosts"]):
        if bound.number is not None and bound.number < 0:
            yield bound.fault(f"{bound.number} is negative; give 0 or more")
    if least.number is not None and most.number is not None and least.number > most.number:
        yield least.fault(f"{least.number} is more than maxReplicas {most.number}; lower it")
        return
    if wanted.number is None:
        return
    if most.number is not None and wanted.number > most.number:
        yield wanted.advice(f"{wanted.number} is more than maxReplicas, which the operator takes instead; lower it")
    if least.number is not None and wanted.number < least.number:
        yield wanted.advice(f"{wanted.number} is less than minReplicas, which the operator takes instead; raise it")


def _group_names(cluster: ClusterSpec) -> Iterator[Finding]:
    seen: set[str] = set()
    for group in cluster.workers:
        name = group["groupName"]
        if name.text and name.text in seen:
            yield name.fault(f"'{name.text}' names two worker groups, whose pods cannot be told apart; rename one")
        seen.add(name.text)
