"""Bytes of one process by what they are for, and what a process costs before any model."""

from __future__ import annotations

from dataclasses import dataclass

from rlhf.plan.hardware import GIB

PARTS = ("weights", "gradients", "optimizer", "gathered", "activations", "kv_cache", "buffers", "heap", "runtime")
MAPPED = 32 * 2**20  # bytes: glibc gives larger blocks back as soon as they are freed (mallopt(3))


@dataclass(frozen=True)
class Memory:
    """Of one process at its peak, on its device, in bytes.

    `host` is what it keeps in its node's memory besides, `passing` what of the parts goes when an update ends, and
    `moved` what its config sends to the host while engines on the same GPU sample.
    """

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    gathered: float = 0.0  # parameters that ZeRO-3 holds whole for the moment
    activations: float = 0.0
    kv_cache: float = 0.0
    buffers: float = 0.0  # DeepSpeed's buckets and copies, an engine's workspace
    heap: float = 0.0  # blocks that were freed, and that the allocator of host memory keeps
    runtime: float = 0.0  # CUDA context and NCCL, or Python and its libraries
    host: float = 0.0
    passing: float = 0.0
    moved: float = 0.0

    @property
    def peak(self) -> float:
        """Everything on the device at once."""
        return sum(getattr(self, part) for part in PARTS)

    @property
    def certain(self) -> float:
        """What no estimate is needed for: weights, gradients and optimizer states."""
        return self.weights + self.gradients + self.optimizer

    @property
    def resting(self) -> float:
        """What stays while engines on the same device sample."""
        return self.peak - self.passing - self.moved


@dataclass(frozen=True)
class Runtime:
    """What a process of each sort holds besides its model, bytes, and whether DeepSpeed's buckets are allocated whole
    (on a GPU) or page by page as they fill (host memory). `heap`: freed blocks that are kept, as a share of what a
    model of small matrices takes while it trains."""

    learner: float
    frozen: float
    engine: float
    reserves_buckets: bool
    heap: float = 0.0


# GPU: a CUDA context with its kernels (about 0.6 GiB), NCCL's buffers and cuBLAS' workspace beside it; assumptions,
# to be replaced by measurements.
ON_GPU = Runtime(learner=1.3 * GIB, frozen=0.8 * GIB, engine=1.5 * GIB, reserves_buckets=True)
# Host memory: what was measured for a process before its model (docs/planning.md).
ON_CPU = Runtime(learner=0.45 * GIB, frozen=0.45 * GIB, engine=0.75 * GIB, reserves_buckets=False, heap=0.25)
