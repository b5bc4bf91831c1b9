"""What is written down about Ray is what the installed Ray has."""

from __future__ import annotations

import importlib.util

import pytest

from rlhf.cluster.findings import Cursor
from rlhf.cluster.ray_fields import ray_fields
from rlhf.cluster.rules.serve import serve_findings
from rlhf.cluster.rules.start import start_findings
from rlhf.cluster.versions import RAY
from tests.cluster.manifests import ROOT


def test_the_shipped_fields_are_those_of_the_installed_ray() -> None:
    """Where this fails: python cluster/ray_fields.py rlhf/cluster/schemas/ray.json."""
    pytest.importorskip("ray.serve.schema")
    spec = importlib.util.spec_from_file_location("ray_fields", ROOT / "cluster" / "ray_fields.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "rlhf" / "cluster" / "schemas" / "ray.json").read_text(encoding="utf-8") == module.text()


def test_they_are_of_the_version_that_is_pinned() -> None:
    assert ray_fields().version == RAY
    assert ray_fields().start["num-cpus"] == "integer" and ray_fields().start["head"] == "switch"
    assert "num_replicas" in ray_fields().serve["applications"]["deployments"]


@pytest.mark.parametrize(
    "params",
    [
        {"num-cpus": "0", "block": "true", "dashboard-host": "0.0.0.0", "resources": '\'{"a": 1}\''},
        {"num-cpus": "$CPUS", "object-store-memory": "'8589934592'", "memory": ""},
        {"raylet-socket-name": "/tmp/x"},  # Ray had it once
    ],
)
def test_options_that_ray_start_takes(params: dict[str, str]) -> None:
    assert list(start_findings(Cursor(params), Cursor("2.60.0"))) == []


def test_of_a_later_ray_nothing_is_said_to_be_unknown() -> None:
    config = Cursor("applications: [{name: a, import_path: 'a:b', later: 1}]")
    for version, faults in (("2.61.0", 0), ("2.60.0", 1), (None, 1)):
        assert len(list(start_findings(Cursor({"later": "1"}), Cursor(version)))) == faults
        assert len(list(serve_findings(config, Cursor(version)))) == faults


def test_a_config_of_serve_that_holds_itself_is_answered() -> None:
    assert [str(each) for each in serve_findings(Cursor("applications: &a [*a]"), Cursor(None))] == [
        "application '': import_path '' is no module:attribute; correct it"
    ]
