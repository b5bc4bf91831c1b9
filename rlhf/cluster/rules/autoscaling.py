"""Rules of autoscaling. Our own manifests have a fixed size; others may not."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import version
from rlhf.cluster.rules.environment import HEAD, container_of, is_on, variable

_V2 = "RAY_enable_autoscaler_v2"
_START = "KUBERAY_GEN_AUTOSCALER_START_CMD"
_PRIORITY_SINCE = (2, 56, 0)


def autoscaling_findings(spec: Cursor) -> Iterator[Finding]:
    """Every rule of autoscaling of a cluster's spec."""
    enabled, options = spec["enableInTreeAutoscaling"].value is True, spec["autoscalerOptions"]
    in_head = variable(container_of(spec[HEAD]), _V2)
    yield from _options(options)
    for group in spec["workerGroupSpecs"]:
        yield from _idle_timeout(group, options, in_head)
        yield from _priority(group, spec, in_head)
    if not enabled:
        if is_on(in_head):
            yield in_head["value"].fault(f"{_V2} is set and enableInTreeAutoscaling is not; set that to true")
        return
    yield from _suspended(spec)
    if options["version"].given and in_head is not None:
        yield in_head.fault(f"{_V2} and autoscalerOptions.version are both set; keep the latter")
    if options["version"].value == "v2":
        yield from _restart_policies(spec)


def _options(options: Cursor) -> Iterator[Finding]:
    timeout = options["idleTimeoutSeconds"]
    if timeout.number is not None and timeout.number < 0:
        yield timeout.fault(f"{timeout.number} is negative; give seconds, 0 or more")
    entry = variable(options, _START)
    if entry is not None:
        yield entry.fault(f"{_START} is set by the operator; remove it")


def _suspended(spec: Cursor) -> Iterator[Finding]:
    for group in spec["workerGroupSpecs"]:
        if group["suspend"].value is True:
            yield group["suspend"].fault("a group is not suspended while autoscaling is on; switch one of them off")


def _restart_policies(spec: Cursor) -> Iterator[Finding]:
    for group in (spec[HEAD], *spec["workerGroupSpecs"]):
        policy = group.at("template", "spec", "restartPolicy")
        if policy and policy.value != "Never":
            yield policy.fault(f"autoscaler v2 needs 'Never' (here: '{policy.value}'); change or remove it")


def _v2(options: Cursor, in_head: Cursor | None) -> bool:
    return options["version"].value == "v2" or is_on(in_head)


def _idle_timeout(group: Cursor, options: Cursor, in_head: Cursor | None) -> Iterator[Finding]:
    timeout = group["idleTimeoutSeconds"]
    if timeout.number is None:
        return
    if timeout.number < 0:
        yield timeout.fault(f"{timeout.number} is negative; give seconds, 0 or more")
    elif not _v2(options, in_head):
        yield timeout.fault("only autoscaler v2 knows it; set autoscalerOptions.version to v2, or remove it")


def _priority(group: Cursor, spec: Cursor, in_head: Cursor | None) -> Iterator[Finding]:
    priority = group["priority"]
    if not priority:
        return
    ray = version(spec["rayVersion"].text)
    if ray is None or ray < _PRIORITY_SINCE:
        yield priority.fault("groups have priorities from Ray 2.56.0 on; give such a rayVersion, or remove it")
    elif not _v2(spec["autoscalerOptions"], in_head):
        yield priority.fault("only autoscaler v2 knows it; set autoscalerOptions.version to v2, or remove it")
