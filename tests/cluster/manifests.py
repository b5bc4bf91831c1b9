"""Manifests to test with: the shipped ones, what they are rendered from, and small valid ones by hand."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from rlhf.cluster.documents import Document, parse_documents, read_documents
from rlhf.cluster.validate import check_documents

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "cluster"
KUBERAY = ROOT.parent / "shared" / "kuberay"  # the operator's own samples and definitions, where they are at hand
WITHOUT_KUBERAY = f"{KUBERAY} is absent: the operator's definitions and its 94 samples are not in this repository"
IMAGE = "registry.example.com/rlhf:0.1.0"
IN_VOLUME = (
    "prompts=/runs/data/prompts_train.jsonl", "policy.model=/runs/models/sft", "reference.model=/runs/models/sft",
    "critic.model=/runs/models/reward", "reward.model=/runs/models/reward",
)

SMALL_CLUSTER = """
apiVersion: ray.io/v1
kind: RayCluster
metadata: {name: small}
spec:
  rayVersion: 2.60.0
  authOptions: {mode: token}
  headGroupSpec:
    template: {spec: {containers: [{name: ray-head, image: "rayproject/ray:2.60.0"}]}}
"""
SELECTING_JOB = """
apiVersion: ray.io/v1
kind: RayJob
metadata: {generateName: again-}
spec: {entrypoint: python -m rlhf keys ppo, clusterSelector: {ray.io/cluster: small}}
"""
CRON_JOB = """
apiVersion: ray.io/v1
kind: RayCronJob
metadata: {name: nightly}
spec:
  schedule: "30 2 * * mon-fri"
  timeZone: Europe/Berlin
  jobTemplate:
    entrypoint: rlhf run /config/config.yaml run_dir=/runs/nightly
    shutdownAfterJobFinishes: true
    ttlSecondsAfterFinished: 60
    rayClusterSpec:
      headGroupSpec:
        template: {spec: {containers: [{name: ray-head, image: "rayproject/ray:2.60.0"}]}}
"""
CORE = """
apiVersion: v1
kind: ServiceAccount
metadata: {name: runner}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: runner}
rules: [{apiGroups: [ray.io], resources: [rayjobs], verbs: [get, list, create]}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: runner}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: runner}
subjects: [{kind: ServiceAccount, name: runner, namespace: rlhf}]
---
apiVersion: v1
kind: Secret
metadata: {name: hub}
stringData: {HF_TOKEN: fill-me-in}
"""


def shipped(file: str, kind: str) -> dict[str, Any]:
    """The object of a kind in a file of cluster/, to be changed."""
    found = next(each for each in read_documents(SHIPPED / file) if each.kind == kind)
    return copy.deepcopy(found.content)


def faults_of(content: dict[str, Any]) -> list[str]:
    """What is wrong with one object, without the name of file and object before it."""
    document = Document(1, content)
    head = f"x.yaml: {document}: "
    return [line.removeprefix(head) for line in check_documents([document], "x.yaml").faults]


def faults_in(text: str) -> list[str]:
    return check_documents(parse_documents(text, "x.yaml"), "x.yaml").faults


def change(content: dict[str, Any], path: str, value: Any) -> None:
    """Set what lies under `spec.groups.0.name`; `...` removes it, and "twice" doubles a list."""
    *keys, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    target: Any = content
    for key in keys:
        target = target.setdefault(key, {}) if isinstance(target, dict) else target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = [*target[last], *target[last]] if value == "twice" else copy.deepcopy(value)


def one(text: str) -> dict[str, Any]:
    return yaml.safe_load(text)
