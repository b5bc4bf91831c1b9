"""Broken manifests: every kind of fault is refused, at its path, with the remedy behind a semicolon."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.manifests import CRON_JOB, change, faults_in, faults_of, one, shipped

CASES = yaml.safe_load((Path(__file__).parent / "broken.yaml").read_text(encoding="utf-8"))
KINDS = {"rayjob": "RayJob", "rayjob-kueue": "RayJob", "raycluster": "RayCluster", "rayservice": "RayService"}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_a_broken_object_is_refused_at_its_path_with_a_remedy(case: dict[str, Any]) -> None:
    """The valid manifest is broken in one place; the fault is told there, and says what to do."""
    content = shipped(f"{case['of']}.yaml", case.get("kind") or KINDS[case["of"]])
    assert faults_of(content) == []
    for place, value in {**case.get("set", {}), **dict.fromkeys(case.get("remove", ()), ...)}.items():
        change(content, place, value)
    found = faults_of(content)
    place = _shown(case["at"])
    matching = [line for line in found if line.startswith(f"{place}: ") and case["says"] in line]
    assert matching, f"{place}: … {case['says']} … is not among {found}"
    assert all("; " in line or ", did you mean" in line for line in found), found


def test_there_are_many_kinds_of_faults() -> None:
    assert len({case["case"] for case in CASES}) == len(CASES) >= 140


def _shown(path: str) -> str:
    text = ""
    for part in path.split("."):
        text += f"[{part}]" if part.isdigit() else f".{part}" if text else part
    return text


@pytest.mark.parametrize(
    ("schedule", "fine"),
    [
        ("0 3 * * *", True), ("*/15 0-6 1,15 jan-mar mon", True), ("@daily", True), ("@every 1h30m", True),
        ("0 3 * *", False), ("61 * * * *", False), ("* * * * funday", False), ("@often", False), ("5-1 * * * *", False),
        ("*/0 * * * *", False), ("", False),
    ],
)
def test_schedules(schedule: str, fine: bool) -> None:
    content = one(CRON_JOB)
    content["spec"]["schedule"] = schedule
    assert [line.startswith("spec.schedule: ") for line in faults_of(content)] == ([] if fine else [True])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("timeZone", "Mars/Base", "'Mars/Base' is no time zone; write it like Europe/Berlin"),
        ("timeZone", "", "is no time zone"),
        ("schedule", "TZ=UTC 0 3 * * *", "names a time zone; give it in timeZone"),
    ],
)
def test_faults_of_a_cron_job(field: str, value: str, words: str) -> None:
    content = one(CRON_JOB)
    content["spec"][field] = value
    assert any(line.startswith(f"spec.{field}: ") and words in line for line in faults_of(content))


def test_a_fault_of_a_template_is_told_at_its_path() -> None:
    content = one(CRON_JOB)
    content["spec"]["jobTemplate"]["shutdownAfterJobFinishes"] = False
    (line,) = faults_of(content)
    assert line.startswith("spec.jobTemplate.ttlSecondsAfterFinished: counts only with shutdownAfterJobFinishes: ")


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {steps: 3}}", "data.steps", "put it in quotes"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, date: {}}", "date", "did you mean 'data'?"),
        ("{apiVersion: v1, kind: ConfigMap, metadata: {}}", "metadata.name", "required"),
        ("{apiVersion: v1, kind: Servise, metadata: {name: a}}", "kind", "did you mean 'Service'?"),
        ("{apiVersion: apps/v1beta1, kind: Deployment, metadata: {name: a}}", "apiVersion", "take apps/v1"),
        (
            "{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: a}, spec: {accessMode: [ReadWriteMany]}}",
            "spec.accessMode", "did you mean 'accessModes'?",
        ),
        (
            "{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: a}, spec: {podSelector: []}}",
            "spec.podSelector", "a mapping, is a list",
        ),
        (
            "{apiVersion: monitoring.coreos.com/v1, kind: PodMonitor, metadata: {name: a}, "
            "spec: {selector: {}, podMetricsEndpoint: []}}",
            "spec.podMetricsEndpoint", "did you mean 'podMetricsEndpoints'?",
        ),
        (
            "{apiVersion: kueue.x-k8s.io/v1beta2, kind: LocalQueue, metadata: {name: a}, spec: {clusterqueue: b}}",
            "spec.clusterqueue", "did you mean 'clusterQueue'?",
        ),
        (
            "{apiVersion: kueue.x-k8s.io/v1beta2, kind: ClusterQueue, metadata: {name: a}, "
            "spec: {queueingStrategy: FIFO}}",
            "spec.queueingStrategy", "is none of StrictFIFO, BestEffortFIFO",
        ),
    ],
)
def test_objects_that_are_not_rays_are_checked_too(text: str, place: str, words: str) -> None:
    found = faults_in(text)
    assert any(f": {place}: " in line and words in line for line in found), found


def test_two_objects_of_one_name_are_refused() -> None:
    text = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}"
    assert faults_in(f"{text}\n---\n{text}") == [
        "x.yaml: document 2 ConfigMap/a: metadata.name: document 1 has the same kind and name; rename one"
    ]
