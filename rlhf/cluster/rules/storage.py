"""Rules of the head's own state (GCS fault tolerance) and of the history server."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.rules.environment import HEAD, container_of, variable

OPTIONS = "gcsFaultToleranceOptions"
_MOUNT, _VOLUME = "/data/gcs", "gcs-storage"
_COLLECTOR = "ray-history-collector"
_REDIS_ONLY = ("redisAddress", "redisUsername", "redisPassword", "externalStorageNamespace")
_ENABLED, _NAMESPACE = "ray.io/ft-enabled", "ray.io/external-storage-namespace"
_INJECTED = (
    "POD_IP", "FQ_RAY_IP", "RAY_CLUSTER_NAME", "RAY_CLUSTER_NAMESPACE", "RAY_ROLE", "OWNER_KIND", "OWNER_NAME",
    "EVENTS_PORT",
)
_NEEDED = {  # backend of the collector → variables, one of which must be set
    "GCS": ("GCS_BUCKET",), "S3": ("S3_REGION",), "ALIYUNOSS": ("OSS_BUCKET", "OSS_ENDPOINT", "OSS_REGION"),
}


def storage_findings(spec: Cursor, annotations: Cursor) -> Iterator[Finding]:
    """Every rule of what outlives a head pod."""
    head, options = container_of(spec[HEAD]), spec[OPTIONS]
    if options.given:
        yield from _with_options(spec, head, annotations)
    else:
        address = variable(head, "RAY_REDIS_ADDRESS")
        if address is not None and annotations[_ENABLED].text.lower() != "true":
            yield address.fault(f"switches on what {OPTIONS} should say; set {OPTIONS}.redisAddress instead")
    yield from _username(spec, head)
    if spec["historyServerOptions"].given:
        yield from _history(spec)


def _with_options(spec: Cursor, head: Cursor, annotations: Cursor) -> Iterator[Finding]:
    for name in (_ENABLED, _NAMESPACE):
        if annotations[name]:
            yield annotations[name].fault(f"{OPTIONS} is set, too; remove the annotation")
    password = spec.at(HEAD, "rayStartParams", "redis-password")
    if password:
        yield password.fault(f"not read here; give it in {OPTIONS}.redisPassword")
    for name, field in (("REDIS_PASSWORD", "redisPassword"), ("RAY_REDIS_ADDRESS", "redisAddress")):
        entry = variable(head, name)
        if entry is not None:
            yield entry.fault(f"{OPTIONS} is set, too; give it in {OPTIONS}.{field} instead")
    options = spec[OPTIONS]
    if options["backend"].value == "rocksdb":
        yield from _rocksdb(spec, head)
    elif options["storage"].given:
        yield options["storage"].fault("belongs to the backend rocksdb; remove it, or set backend: rocksdb")


def _rocksdb(spec: Cursor, head: Cursor) -> Iterator[Finding]:
    options = spec[OPTIONS]
    gate = "GCSFaultToleranceEmbeddedStorage"
    yield options["backend"].advice(f"needs the operator's feature gate {gate}; switch it on there")
    for name in _REDIS_ONLY:
        if options[name].given:
            yield options[name].fault("belongs to the backend redis; remove it")
    storage = options["storage"]
    if storage["claimName"]:
        for name in ("size", "storageClassName", "accessModes"):
            if storage[name]:
                yield storage[name].fault("claimName names a claim that has it; keep one of the two")
    for name in ("RAY_gcs_storage", "RAY_gcs_storage_path"):
        entry = variable(head, name)
        if entry is not None:
            yield entry.fault("is set by the operator for the backend rocksdb; remove it")
    for mount in head["volumeMounts"]:
        if mount["mountPath"].value == _MOUNT or mount["name"].value == _VOLUME:
            yield mount.fault(f"'{_VOLUME}' at {_MOUNT} belongs to the operator; choose another name and path")
    for volume in spec.at(HEAD, "template", "spec", "volumes"):
        if volume["name"].value == _VOLUME:
            yield volume.fault(f"'{_VOLUME}' belongs to the operator; choose another name")


def _username(spec: Cursor, head: Cursor) -> Iterator[Finding]:
    given = spec.at(HEAD, "rayStartParams", "redis-username")
    if given:
        yield given.fault(f"not read here; give it in {OPTIONS}.redisUsername")
    entry = variable(head, "REDIS_USERNAME")
    if entry is not None:
        yield entry.fault(f"not read here; give it in {OPTIONS}.redisUsername")


def _history(spec: Cursor) -> Iterator[Finding]:
    options = spec["historyServerOptions"]
    yield options.advice("needs the operator's feature gate RayClusterHistoryServer; switch it on there")
    collector = options["collectorOptions"]
    if not collector.given:
        yield collector.fault("required, but not given; add it")
        return
    if not collector["image"]:
        yield collector["image"].fault("required, but not given; name the collector's image")
    for name in _INJECTED:
        entry = variable(collector, name)
        if entry is not None:
            yield entry.fault("is set by the operator; remove it")
    yield from _backend(collector)
    for group in (spec[HEAD], *spec["workerGroupSpecs"]):
        for container in group.at("template", "spec", "containers"):
            if container["name"].value == _COLLECTOR:
                yield container["name"].fault(f"'{_COLLECTOR}' is the operator's own container; rename it")


def _backend(collector: Cursor) -> Iterator[Finding]:
    backend = variable(collector, "STORAGE_BACKEND")
    if backend is None or not backend["value"].text:
        yield collector["env"].fault("has no STORAGE_BACKEND; set it to GCS, S3, AzureBlob or AliyunOSS")
        return
    kind = backend["value"].text.upper()
    for name in _NEEDED.get(kind, ()):
        if not _has_value(collector, name):
            yield collector["env"].fault(f"has no {name}, which STORAGE_BACKEND {kind} needs; add it")
    if kind == "AZUREBLOB":
        yield from _azure(collector)


def _azure(collector: Cursor) -> Iterator[Finding]:
    account, connection = "AZURE_STORAGE_ACCOUNT_URL", "AZURE_STORAGE_CONNECTION_STRING"
    mode = variable(collector, "AZURE_STORAGE_AUTH_MODE")
    chosen = mode["value"].text.strip().lower() if mode is not None else ""
    needed = {"connection_string": (connection,), "workload_identity": (account,), "default": (account,)}
    names = needed.get(chosen, (connection, account))
    if not any(_has_value(collector, name) for name in names):
        yield collector["env"].fault(f"has no {' or '.join(names)}, which STORAGE_BACKEND AZUREBLOB needs; add it")


def _has_value(collector: Cursor, name: str) -> bool:
    entry = variable(collector, name)
    return entry is not None and bool(entry["value"] or entry["valueFrom"])
