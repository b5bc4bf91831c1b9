"""Whatever stands in a manifest, the check answers in sentences."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf.cluster.documents import Document
from rlhf.cluster.validate import check_documents
from tests.cluster.manifests import shipped

OBJECTS = {
    "job": shipped("rayjob.yaml", "RayJob"), "cluster": shipped("raycluster.yaml", "RayCluster"),
    "service": shipped("rayservice.yaml", "RayService"), "policy": shipped("rayjob.yaml", "NetworkPolicy"),
    "queue": shipped("kueue.yaml", "ClusterQueue"), "pod": shipped("storage.yaml", "Pod"),
    "claim": shipped("storage.yaml", "PersistentVolumeClaim"), "config": shipped("rayjob.yaml", "ConfigMap"),
}
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(allow_nan=False), st.text(max_size=8),
    st.sampled_from(["", "token", "[", "{a", "None", "1Gi", "1.1.1Gi", "@every", "0/0", ".", "1e9"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything in an object."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inside for place in places(each, (*path, key)))]


PLACES = {name: places(content)[1:] for name, content in OBJECTS.items()}


@given(st.sampled_from(sorted(OBJECTS)), st.data())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_one_value_of_any_kind_anywhere(name: str, data: st.DataObject) -> None:
    """A value in a valid object is replaced by anything: no exception, and each line names the object."""
    content = copy.deepcopy(OBJECTS[name])
    *path, last = data.draw(st.sampled_from(PLACES[name]))
    target: Any = content
    for key in path:
        target = target[key]
    target[last] = data.draw(VALUES)
    answered(content)


@given(st.dictionaries(st.sampled_from(["apiVersion", "kind", "metadata", "spec", "x"]), VALUES, max_size=5))
@settings(max_examples=200, deadline=None)
def test_any_mapping(content: dict[str, Any]) -> None:
    answered(content)


@given(st.sampled_from(["RayJob", "RayCluster", "RayService", "RayCronJob"]), VALUES, VALUES)
@settings(max_examples=200, deadline=None)
def test_any_spec_of_an_object_of_ray(kind: str, spec: Any, metadata: Any) -> None:
    answered({"apiVersion": "ray.io/v1", "kind": kind, "metadata": metadata, "spec": spec})


def answered(content: dict[str, Any]) -> None:
    checked = check_documents([Document(1, content)], "x.yaml")
    for line in (*checked.faults, *checked.advice, *checked.unknown):
        assert line.startswith("x.yaml: document 1 ")
