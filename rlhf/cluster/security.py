"""What opens a cluster to others: whoever reaches the dashboard or the job server of Ray can run code on it."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Advice, Cursor
from rlhf.cluster.rules.environment import HEAD, container_of

_OPEN = ("LoadBalancer", "NodePort")
_INSIDE = {8265: "dashboard", 6379: "GCS", 10001: "client port", 52365: "agent"}  # of a head
_NAMES = ("dashboard", "gcs-server", "gcs", "client")
_SECRETS = ("TOKEN", "PASSWORD", "SECRET", "API_KEY", "ACCESS_KEY", "CREDENTIALS")  # how their names end
_RUNS_CODE = "whoever reaches it can run code"


def security_advice(kind: str, content: Cursor) -> Iterator[Advice]:
    """Everything about one object that lets others in."""
    if kind == "Service":
        yield from _service(content["spec"])
    elif kind == "Ingress":
        yield from _ingress(content["spec"])
    for spec in _clusters(kind, content):
        yield from _cluster(spec)


def _clusters(kind: str, content: Cursor) -> Iterator[Cursor]:
    places = {
        "RayCluster": ("spec",), "RayJob": ("spec", "rayClusterSpec"), "RayService": ("spec", "rayClusterConfig"),
        "RayCronJob": ("spec", "jobTemplate", "rayClusterSpec"),
    }
    spec = content.at(*places[kind]) if kind in places else Cursor(None)
    if spec.given:
        yield spec


def _service(spec: Cursor) -> Iterator[Advice]:
    is_head = spec.at("selector", "ray.io/node-type").value == "head"
    inside = [port for port in spec["ports"] if port["port"].value in _INSIDE or port["name"].text in _NAMES]
    if spec["type"].value in _OPEN and (is_head or inside):
        kind = spec["type"]
        yield kind.advice(f"{kind.value} opens Ray's own ports to others, and {_RUNS_CODE}; take ClusterIP")


def _ingress(spec: Cursor) -> Iterator[Advice]:
    backends = [spec["defaultBackend"]]
    backends += [path["backend"] for rule in spec["rules"] for path in rule.at("http", "paths")]
    for backend in backends:
        port = backend.at("service", "port")
        if port["number"].value in _INSIDE or port["name"].text in _NAMES:
            yield port.advice(f"opens Ray's own port to others, and {_RUNS_CODE}; use kubectl port-forward")


def _cluster(spec: Cursor) -> Iterator[Advice]:
    head = spec[HEAD]
    if head["enableIngress"].value is True:
        yield head["enableIngress"].advice(f"opens the dashboard to others, and {_RUNS_CODE}; use kubectl port-forward")
    kinds = (head["serviceType"], head.at("headService", "spec", "type"))
    for kind in kinds:
        if kind.value in _OPEN:
            yield kind.advice(f"{kind.value} opens the dashboard to others, and {_RUNS_CODE}; take ClusterIP")
    if spec.at("authOptions", "mode").value != "token":
        yield spec.at("authOptions", "mode").advice(
            f"without token authentication, {_RUNS_CODE} on the cluster; add authOptions: {{mode: token}}"
        )
    for group in (head, *spec["workerGroupSpecs"]):
        yield from _pod(group)


def _pod(group: Cursor) -> Iterator[Advice]:
    pod = group.at("template", "spec")
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if pod[field].value is True:
            yield pod[field].advice("takes down a wall to the node; remove it")
    for volume in pod["volumes"]:
        if volume["hostPath"].given:
            yield volume["hostPath"].advice("gives the pod files of its node; take a persistentVolumeClaim")
    for container in pod["containers"]:
        if container.at("securityContext", "privileged").value is True:
            yield container.at("securityContext", "privileged").advice("is root on the node; remove it")
        for entry in container["env"]:
            if entry["value"].text and entry["name"].text.upper().endswith(_SECRETS):
                yield entry["value"].advice("may be a secret in plain text; take valueFrom.secretKeyRef")
    image = container_of(group)["image"]
    name = image.text.rpartition("/")[2]
    if name and "@sha256:" not in image.text and (":" not in name or name.endswith(":latest")):
        yield image.advice("names no version, so that retries may run another one; give a tag, or better a digest")
