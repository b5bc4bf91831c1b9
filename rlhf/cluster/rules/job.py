"""Rules of a RayJob, which a RayCronJob holds as its template."""

from __future__ import annotations

import json
from collections.abc import Iterator

import yaml

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.cluster import ClusterSpec, cluster_findings, manager_findings
from rlhf.cluster.rules.deletion import deletion_findings
from rlhf.cluster.rules.environment import HEAD
from rlhf.cluster.rules.pod import job_pod_findings, pod_findings
from rlhf.config import suggestion

MODES = ("K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode")
SELECTED = "ray.io/cluster"


def job_findings(job: Cursor, annotations: Cursor) -> Iterator[Finding]:
    """Every rule of a RayJob's spec."""
    yield from _mode(job)
    yield from _target(job)
    yield from _numbers(job)
    yield from _texts(job)
    yield from deletion_findings(job)
    yield from manager_findings(job["managedBy"])
    submits_by_job = job["submissionMode"].value in (None, "", "K8sJobMode")
    yield from (job_pod_findings if submits_by_job else pod_findings)(job["submitterPodTemplate"])
    if job["suspend"].value is True and job["shutdownAfterJobFinishes"].value is not True:
        yield job["suspend"].fault("a suspended job needs shutdownAfterJobFinishes: true; set it, or do not suspend")
    cluster = job["rayClusterSpec"]
    if not cluster.given:
        return
    if cluster.at("authOptions", "enableK8sTokenAuth").value is True:
        yield cluster.at("authOptions", "enableK8sTokenAuth").fault("a RayJob has none of it yet; remove it")
    yield from cluster_findings(ClusterSpec(cluster, annotations))


def _mode(job: Cursor) -> Iterator[Finding]:
    mode, retries = job["submissionMode"], job["backoffLimit"].number or 0
    if mode.given and mode.value not in MODES:
        near = suggestion(mode.text, MODES)
        remedy = near if near[0] == "," else "; take one of them"
        yield mode.fault(f"'{mode.value}' is none of {', '.join(MODES)}{remedy}")
    if mode.value == "InteractiveMode" and retries > 0:
        yield job["backoffLimit"].fault("a job that is submitted by hand is not retried; remove it")
    submits_itself = job.at("submitterPodTemplate", "spec", "containers", 0)["command"].given
    if mode.value != "InteractiveMode" and not submits_itself and not job["entrypoint"].text.strip():
        yield job["entrypoint"].fault("required, but not given; add the command that the job runs")
    if mode.value != "SidecarMode":
        return
    for field in ("submitterPodTemplate", "submitterConfig"):
        if job[field].given:
            yield job[field].fault("the submitter of SidecarMode runs in the head pod; remove it")
    policy = job.at("rayClusterSpec", HEAD, "template", "spec", "restartPolicy")
    if policy and policy.value != "Never":
        yield policy.fault(f"SidecarMode needs 'Never' (here: '{policy.value}'); change or remove it")


def _target(job: Cursor) -> Iterator[Finding]:
    """The cluster that the job makes, or the running one that it selects."""
    selector = job["clusterSelector"]
    if not selector:
        if not job["rayClusterSpec"].given:
            yield job["rayClusterSpec"].fault("required, but not given; add it, or name a cluster in clusterSelector")
        return
    if not selector[SELECTED].text:
        yield selector.fault(f"names no cluster; write {SELECTED}: NAME")
    if job["suspend"].value is True:
        yield job["suspend"].fault("a job on a cluster that it did not make is not suspended; remove it")
    if job["submissionMode"].value == "SidecarMode":
        yield job["submissionMode"].fault("SidecarMode needs a cluster of the job's own; take K8sJobMode")
    if (job["backoffLimit"].number or 0) > 0:
        yield job["backoffLimit"].fault("each retry makes a new cluster, and clusterSelector names one; remove it")


def _numbers(job: Cursor) -> Iterator[Finding]:
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if job[name].number is not None and job[name].number <= 0:
            yield job[name].fault(f"{job[name].number} is no time to wait; give seconds, 1 or more")
    if (job["backoffLimit"].number or 0) < 0:
        yield job["backoffLimit"].fault(f"{job['backoffLimit'].number} is negative; give 0 or more")


def _texts(job: Cursor) -> Iterator[Finding]:
    """Fields whose text is YAML or JSON of its own."""
    environment, resources = job["runtimeEnvYAML"], job["entrypointResources"]
    try:
        content = yaml.safe_load(environment.text)
        if content is not None and not isinstance(content, dict):
            yield environment.fault(f"holds a {type(content).__name__}; write a mapping (working_dir, env_vars, …)")
    except (yaml.YAMLError, ValueError) as error:
        yield environment.fault(f"not valid YAML: {str(error).splitlines()[0]}; correct it")
    if not resources.text:
        return
    try:
        json.loads(resources.text)
    except ValueError as error:
        yield resources.fault(f"not valid JSON: {error}; write it like {{\"name\": 1}}")
