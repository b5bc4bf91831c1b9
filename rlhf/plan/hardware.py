"""What GPUs have, from their makers' data sheets, and what a `--cluster 16x8xH100-80` is.

Sources: NVIDIA's data sheets of H100 (SXM5), H200, B200 (HGX), A100 (SXM4), A800, L40S, L4 and the Ada architecture
whitepaper for the RTX 4090; FLOP/s are dense bfloat16 with float32 accumulation (data sheets print twice that, "with
sparsity"). NVLink is one direction, all links of a GPU; 0 where GPUs of a node meet over PCIe alone. Network is one
direction per GPU as DGX and HGX systems are commonly built (one 400 Gb/s adapter per H100, 200 Gb/s per A100).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlhf.config import suggestion
from rlhf.errors import ConfigError

GIB = 1024**3
TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Gpu:
    """One kind of GPU; bytes, bytes/s, FLOP/s. `memory` is what the driver offers, a little below the name's."""

    kind: str
    memory: float
    flops: float
    bandwidth: float
    nvlink: float
    network: float
    pcie: float


def _gpu(kind: str, gib: float, tflops: float, tb_s: float, nvlink: float, network: float, pcie: float = 25) -> Gpu:
    return Gpu(kind, gib * GIB, tflops * TERA, tb_s * TERA, nvlink * GIGA, network * GIGA, pcie * GIGA)


# kind: GiB as nvidia-smi shows them, dense bfloat16 TFLOP/s, HBM TB/s, NVLink GB/s, network GB/s, PCIe GB/s (reached)
GPUS: dict[str, Gpu] = {
    "H100-80": _gpu("H100-80", 79.6, 989, 3.35, 450, 50, 50),
    "H200-141": _gpu("H200-141", 140.4, 989, 4.8, 450, 50, 50),
    "B200-180": _gpu("B200-180", 178.4, 2250, 8.0, 900, 50, 50),
    "A100-80": _gpu("A100-80", 79.6, 312, 2.04, 300, 25),
    "A100-40": _gpu("A100-40", 39.6, 312, 1.56, 300, 25),
    "A800-80": _gpu("A800-80", 79.6, 312, 2.04, 200, 25),
    "L40S-48": _gpu("L40S-48", 44.9, 362, 0.864, 0, 12.5),
    "L4-24": _gpu("L4-24", 22.5, 121, 0.3, 0, 6.25, 12),
    "RTX4090-24": _gpu("RTX4090-24", 23.5, 165, 1.008, 0, 3.1),
}
_OTHER_NAMES = {"4090-24": "RTX4090-24", "B200-192": "B200-180", "H200": "H200-141", "H100": "H100-80"}


@dataclass(frozen=True)
class Cluster:
    """Equal nodes of equal GPUs, or of none; `node_memory`: bytes of a node's own, None where nobody knows."""

    nodes: int
    gpus_per_node: int
    gpu: Gpu | None
    node_memory: float | None = None

    @property
    def gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    def __str__(self) -> str:
        memory = f" and {self.node_memory / GIB:.0f} GiB" if self.node_memory else ""
        if self.gpu is None:
            return f"{_counted(self.nodes, 'node')} without a GPU{memory}"
        own = f"{memory} of memory" if memory else ""
        return f"{_counted(self.nodes, 'node')} of {self.gpus_per_node} x {self.gpu.kind} GiB{own}"


def parse_cluster(text: str) -> Cluster:
    """`16x8xH100-80` (nodes x GPUs of a node x kind-GiB), with `+2000` where a node has 2000 GiB of its own memory; or
    `2xCPU-32` (nodes x CPU-GiB). Raises ConfigError."""
    match = re.fullmatch(r"(\d+)x(?:(\d+)x)?([A-Za-z0-9]+(?:-\d+)?)(?:\+(\d+))?", text.strip())
    if match is None or int(match[1]) == 0:
        raise ConfigError(
            f"--cluster: '{text}'; write NODESxGPUSxKIND-GIB, for example 16x8xH100-80, with +GIB for the memory of a "
            f"node where it is known (16x8xH100-80+1024), or 1xCPU-32"
        )
    nodes, gpus, kind = int(match[1]), match[2], match[3].upper()
    if kind.startswith("CPU"):
        return _cpu_cluster(text, nodes, gpus or match[4], kind)
    kind = _OTHER_NAMES.get(kind, kind)
    if kind not in GPUS:
        raise ConfigError(f"--cluster: '{match[3]}' is no GPU that is known here{suggestion(kind, GPUS)}")
    if gpus is None or int(gpus) == 0:
        raise ConfigError(f"--cluster: '{text}' does not say how many GPUs a node has; write {nodes}x8x{kind}")
    return Cluster(nodes, int(gpus), GPUS[kind], int(match[4]) * GIB if match[4] else None)


def _cpu_cluster(text: str, nodes: int, gpus: str | None, kind: str) -> Cluster:
    gib = kind.partition("-")[2]
    if gpus is not None or not gib:
        raise ConfigError(f"--cluster: '{text}'; write nodes without GPUs as NODESxCPU-GIB, for example 1xCPU-32")
    return Cluster(nodes, 0, None, float(gib) * GIB)


def _counted(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
