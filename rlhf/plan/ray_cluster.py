"""What Ray says of the memory of its cluster, as far as a refusal may rest on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.plan.hardware import GPUS, Cluster, Gpu
from rlhf.plan.machine import memory_bytes

_ACCELERATOR = "accelerator_type:"


def ray_cluster() -> Cluster:
    """The cluster of the Ray session that this process is in."""
    import ray

    return cluster_of([node for node in ray.nodes() if node["Alive"]])


def cluster_of(nodes: Sequence[Mapping[str, Any]]) -> Cluster:
    """What is known of the memory of Ray's nodes, on the generous side: of GPUs that differ the largest, and of host
    memory only that of a single node, which is the driver's own."""
    resources = [node["Resources"] for node in nodes]
    gpus = int(max((each.get("GPU", 0.0) for each in resources), default=0))
    kinds = [kind for each in resources for name in each if (kind := largest(name)) is not None]
    alone = memory_bytes() if len(nodes) == 1 else None
    gpu = max(kinds, key=lambda kind: kind.memory) if kinds and _all_known(resources) else None
    return Cluster(max(1, len(nodes)), gpus if gpu is not None else 0, gpu, alone)


def largest(resource: str) -> Gpu | None:
    """The kind of GPU with most memory that Ray may mean by a resource `accelerator_type:H100`; None if none."""
    if not resource.startswith(_ACCELERATOR):
        return None
    plain = resource.removeprefix(_ACCELERATOR).upper().replace("-", "").removesuffix("G")
    alike = [gpu for gpu in GPUS.values() if _same(gpu.kind, plain)]
    return max(alike, key=lambda gpu: gpu.memory, default=None)


def _same(kind: str, plain: str) -> bool:
    """`H100-80` is meant by H100 and by H100-80G; `L4` is not `L40S`."""
    name, _, gib = kind.partition("-")
    return plain.removesuffix(gib) == name or plain.endswith(f"{name}{gib}") or (name in plain and len(name) > 6)


def _all_known(resources: Sequence[Mapping[str, float]]) -> bool:
    """Whether every node with GPUs says of a kind that is known."""
    with_gpus = [each for each in resources if each.get("GPU")]
    return all(any(largest(name) is not None for name in each) for each in with_gpus)
