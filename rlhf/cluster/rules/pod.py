"""What Kubernetes refuses of a pod, and so of every pod that the operator makes from a template."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import label_faults
from rlhf.cluster.rules.choice import RESTART_POLICIES, choice
from rlhf.cluster.rules.container import container_findings
from rlhf.cluster.rules.placement import placement_findings
from rlhf.cluster.rules.profiles import profile_findings
from rlhf.cluster.rules.volume import volume_findings

_DNS_POLICIES = ("ClusterFirst", "ClusterFirstWithHostNet", "Default", "None")


def pod_findings(template: Cursor) -> Iterator[Finding]:
    """Every rule of a pod, or of a template of pods: metadata and spec."""
    pod = template["spec"]
    yield from label_faults(template.at("metadata", "labels"))
    yield from choice(pod["restartPolicy"], RESTART_POLICIES)
    yield from choice(pod["dnsPolicy"], _DNS_POLICIES)
    grace = pod["terminationGracePeriodSeconds"]
    if grace.number is not None and grace.number < 0:
        yield grace.fault(f"{grace.number} is negative; give seconds, 0 or more")
    for volume in pod["volumes"]:
        yield from volume_findings(volume)
    yield from _containers(pod)
    yield from profile_findings(pod["securityContext"])
    yield from placement_findings(pod)


def job_pod_findings(template: Cursor) -> Iterator[Finding]:
    """The same of a template of a Kubernetes Job, whose pods end."""
    yield from pod_findings(template)
    policy = template.at("spec", "restartPolicy")
    if template["spec"].given and policy.value in (None, "", "Always"):
        yield policy.fault(f"a Job needs Never or OnFailure (here: {policy.text or 'none, which is Always'}); set it")


def _containers(pod: Cursor) -> Iterator[Finding]:
    volumes = {volume["name"].text for volume in pod["volumes"]}
    for containers in (pod["containers"], pod["initContainers"]):
        for container in containers:
            yield from container_findings(container, volumes)
            yield from _root(container, pod["securityContext"])
    names = {container["name"].text for container in pod["containers"]}
    for container in pod["initContainers"]:
        name = container["name"]
        if name.text and name.text in names:
            yield name.fault(f"'{name.text}' names a container of this pod, too; rename one")


def _root(container: Cursor, of_pod: Cursor) -> Iterator[Finding]:
    own = container["securityContext"]
    must_not = own["runAsNonRoot"] if own["runAsNonRoot"].given else of_pod["runAsNonRoot"]
    user = own["runAsUser"] if own["runAsUser"].given else of_pod["runAsUser"]
    if must_not.value is True and user.value == 0:
        yield user.fault("0 is root, and runAsNonRoot forbids it; give another user")
    if own["privileged"].value is True and own["allowPrivilegeEscalation"].value is False:
        yield own["allowPrivilegeEscalation"].fault("a privileged container may always; remove privileged")
