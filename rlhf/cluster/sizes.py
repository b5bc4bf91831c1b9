"""How large the pods of a run are."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from decimal import Decimal

from rlhf.cluster.needs import Need
from rlhf.cluster.options import Options
from rlhf.cluster.packing import Nodes
from rlhf.errors import ConfigError

GIB = 1024**3
_WIDTH = 90  # characters of a comment
_SHARED_OF_A_POD = 1  # GiB beside the object store: gloo, and the engines' queues
_SHARED_OF_A_GPU = 2  # GiB: NCCL's buffers between processes of one node, and vLLM's
_MEMORY_OF_A_CPU = 4  # GiB; a rule of thumb, for want of a measurement
_MEMORY_OF_A_GPU = 64  # GiB: weights pass through host memory while they are loaded and saved
_MEMORY_BESIDE_AN_ENGINE = 4  # GiB: Ray, and Ray Serve's own processes; for want of a measurement


@dataclass(frozen=True)
class Sizes:
    """Pods of a cluster: the head's and those of the workers, in cores and GiB."""

    nodes: Nodes
    object_store: int  # bytes, on every node
    shared: int  # GiB of /dev/shm on workers
    memory: int  # GiB of a worker, /dev/shm included
    head_cpus: int
    head_shared: int
    head_memory: int  # /dev/shm included
    why: tuple[str, ...]  # lines about what each stage reserves


@dataclass(frozen=True)
class PodMemory:
    """GiB of a worker beside /dev/shm, and lines about what of them is not by rule."""

    gib: int
    why: tuple[str, ...] = ()


def memory_of_a_pod(options: Options, nodes: Nodes, offloaded: float = 0.0, least: float = 0.0) -> PodMemory:
    """The memory of a worker, where `--memory` does not say otherwise: by its cores and GPUs, and for states
    that learners offload; for an engine on a CPU what the plan gives it, if that is more. `offloaded`, `least`: bytes.

    Raises ConfigError for a `--memory` that does not hold what is certain.
    """
    states, engine = math.ceil(offloaded / GIB), math.ceil(least / GIB)
    rule = _MEMORY_OF_A_CPU * nodes.cpus + _MEMORY_OF_A_GPU * nodes.gpus + states
    needed = max(rule, engine + _MEMORY_BESIDE_AN_ENGINE if engine else 0)
    why = (f"memory: up to {states} GiB of a worker are states that learners offload",) if states else ()
    if options.memory is None:
        return PodMemory(needed, why)
    if options.memory < max(states, engine):
        what = f"states that go to host memory take {states}" if states else f"the engine takes {engine}"
        raise ConfigError(f"--memory: {options.memory} GiB, and {what}; give {needed}, or leave it out")
    return PodMemory(options.memory, why)


def sizes(options: Options, nodes: Nodes, needs: list[Need], object_store_gib: float, memory: PodMemory) -> Sizes:
    """Sizes for the needs of a run, where the options do not say otherwise."""
    store = math.ceil(object_store_gib)
    shared = store + _SHARED_OF_A_POD + _SHARED_OF_A_GPU * nodes.gpus
    head_shared = store + _SHARED_OF_A_POD
    return Sizes(
        nodes, int(Decimal(str(object_store_gib)) * GIB), shared, memory.gib + shared, options.head_cpus, head_shared,
        options.head_memory + head_shared, (*(line for need in needs for line in _lines(need)), *memory.why),
    )


def _lines(need: Need) -> list[str]:
    """`ppo: 8 GPUs and 36 CPUs (policy 4 × 1 GPU, critic 2 × 0.6 GPU, …)`."""
    totals = [f"{need.total(kind):g} {kind}s" for kind in ("GPU", "CPU") if need.total(kind)]
    roles = [
        f"{name} {resources.ranks} × {_each(resources.gpus, resources.cpus)}" for name, resources in need.roles.items()
    ]
    text = f"{need.stage}: {' and '.join(totals)} ({', '.join(roles)})"
    return textwrap.wrap(text, _WIDTH, subsequent_indent="    ")


def _each(gpus: float, cpus: float) -> str:
    return f"{gpus:g} GPU" if gpus else f"{cpus:g} CPU"
