"""Which rules an object of KubeRay has, with those of its name, its schedule and its queue."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import is_dns_1035, label_faults
from rlhf.cluster.rules.cluster import ClusterSpec, cluster_findings
from rlhf.cluster.rules.identity import namespace_findings
from rlhf.cluster.rules.job import job_findings
from rlhf.cluster.rules.service import service_findings

LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}  # services' names are made from them
QUEUE = "kueue.x-k8s.io/queue-name"
_FROM = "ray.io/originated-from-crd"
_POD_SETS = 8  # of a workload of Kueue: head, submitter and worker groups
_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))  # minute, hour, day, month, weekday
_WORDS = {3: "jan feb mar apr may jun jul aug sep oct nov dec", 4: "sun mon tue wed thu fri sat"}
_MACROS = ("@yearly", "@annually", "@monthly", "@weekly", "@daily", "@midnight", "@hourly")


def ray_findings(kind: str, content: Cursor) -> Iterator[Finding]:
    """Every rule of an object of KubeRay."""
    yield from _names(kind, content["metadata"])
    yield from namespace_findings(content["metadata"])
    yield from label_faults(content.at("metadata", "labels"))
    yield from _KINDS[kind](content)
    if kind == "RayJob" and content.at("metadata", "labels", QUEUE):
        yield from _queued(content["spec"])


def _names(kind: str, metadata: Cursor) -> Iterator[Finding]:
    name, prefix = metadata["name"], metadata["generateName"]
    if not name.given and not prefix.given:
        yield name.fault("required, but not given; add it")
        return
    if not name.given:
        return
    if len(name.text) > LONGEST[kind]:
        yield name.fault(f"has {len(name.text)} characters, and a {kind} may have {LONGEST[kind]}; shorten it")
    elif not is_dns_1035(name.text):
        yield name.fault(f"'{name.value}' is no name; take a lower-case letter, then letters, digits and '-'")


def _cluster(content: Cursor) -> Iterator[Finding]:
    spec, strategy = content["spec"], content.at("spec", "upgradeStrategy", "type")
    if strategy.given and strategy.value not in ("Recreate", "None"):
        yield strategy.fault(f"'{strategy.value}' is none of Recreate, None; take one of them")
    made_by = content.at("metadata", "labels", _FROM)
    if strategy.given and made_by.value in ("RayJob", "RayService"):
        yield strategy.fault(f"a cluster of a {made_by.value} has none; remove it")
    yield from cluster_findings(ClusterSpec(spec, content.at("metadata", "annotations")))


def _job(content: Cursor) -> Iterator[Finding]:
    yield from job_findings(content["spec"], content.at("metadata", "annotations"))


def _service(content: Cursor) -> Iterator[Finding]:
    yield from service_findings(content["spec"], content.at("metadata", "annotations"))


def _cron(content: Cursor) -> Iterator[Finding]:
    spec = content["spec"]
    yield content["kind"].advice("needs the operator's feature gate RayCronJob; switch it on there")
    schedule, zone = spec["schedule"], spec["timeZone"]
    if "TZ" in schedule.text:
        yield schedule.fault("names a time zone; give it in timeZone")
    elif not _is_schedule(schedule.text):
        yield schedule.fault(f"'{schedule.text}' is no schedule; write minute, hour, day, month, weekday: 0 3 * * *")
    if zone.given and not _is_zone(zone.text):
        yield zone.fault(f"'{zone.value}' is no time zone; write it like Europe/Berlin, or remove it")
    yield from job_findings(spec["jobTemplate"], Cursor(None))


def _is_zone(name: str) -> bool:
    try:
        return bool(name) and ZoneInfo(name) is not None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False


def _is_schedule(text: str) -> bool:
    fields = text.split()
    if text.startswith("@"):
        return text in _MACROS or re.fullmatch(r"@every (\d+(\.\d+)?(ms|s|m|h))+", text) is not None
    parts = [(index, part) for index, field in enumerate(fields) for part in field.split(",")]
    return len(fields) == 5 and all(_is_field(index, part) for index, part in parts)


def _is_field(index: int, part: str) -> bool:
    """One element of one field: `*`, `?`, `5`, `1-5`, `mon`, each with a step `/2` at most."""
    span, slash, step = part.partition("/")
    if slash and not (step.isdigit() and int(step) > 0):
        return False
    if span in ("*", "?"):
        return True
    words = _WORDS.get(index, "").split()
    numbers = [words.index(end.lower()) + (index == 3) if end.lower() in words else end for end in span.split("-")]
    low, high = _FIELDS[index]
    if len(numbers) > 2 or not all(str(number).isdigit() for number in numbers):
        return False
    return low <= int(numbers[0]) <= int(numbers[-1]) <= high


def _queued(spec: Cursor) -> Iterator[Finding]:
    """What Kueue refuses of a job that waits in one of its queues."""
    if spec["shutdownAfterJobFinishes"].value is not True:
        yield spec["shutdownAfterJobFinishes"].fault("a job in a queue of Kueue gives its quota back; set it to true")
    if spec["clusterSelector"]:
        yield spec["clusterSelector"].fault("a job in a queue of Kueue makes its own cluster; give rayClusterSpec")
    cluster = spec["rayClusterSpec"]
    if cluster["enableInTreeAutoscaling"].value is True:
        yield cluster["enableInTreeAutoscaling"].fault("a job in a queue of Kueue has a fixed size; set it to false")
    most = _POD_SETS - 2 if spec["submissionMode"].value in (None, "K8sJobMode") else _POD_SETS - 1
    if cluster["workerGroupSpecs"].length > most:
        yield cluster["workerGroupSpecs"].fault(f"Kueue takes at most {most} worker groups of such a job; merge some")


_KINDS: dict[str, Callable[[Cursor], Iterator[Finding]]] = {
    "RayCluster": _cluster, "RayJob": _job, "RayService": _service, "RayCronJob": _cron,
}
