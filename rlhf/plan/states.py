"""Weights, gradients and optimizer states of a model that DeepSpeed trains, per rank and on its host, in bytes.

ZeRO (arXiv:1910.02054) says what is divided; how many copies of what DeepSpeed 0.19 really holds was read in its
optimizers and measured (docs/planning.md). `estimators` is the arithmetic of DeepSpeed's own estimators on these terms.
"""

from __future__ import annotations

from dataclasses import dataclass

MASTER, MOMENTS, FLOAT32 = 4, 8, 4  # bytes per trained parameter
MAX_LIVE = 1_000_000_000  # parameters that ZeRO-3 keeps gathered, DeepSpeed's stage3_max_live_parameters
PREFETCH = 50_000_000  # its stage3_prefetch_bucket_size
BUCKET = 500_000_000  # its reduce_bucket_size, in numbers


@dataclass(frozen=True)
class Zero:
    """How DeepSpeed divides a model over `ranks`."""

    stage: int
    ranks: int
    offload_optimizer: bool = False
    offload_parameters: bool = False


@dataclass(frozen=True)
class Counted:
    """Parameters of a model: all of them, those trained, and those of the largest module that is gathered whole."""

    total: int
    trained: int
    largest: int


@dataclass(frozen=True)
class States:
    """Bytes of one rank on its device, and of one rank in its host's memory."""

    weights: float
    gradients: float
    optimizer: float
    host: float = 0.0

    @property
    def device(self) -> float:
        return self.weights + self.gradients + self.optimizer


def states(counted: Counted, zero: Zero, width: int, gradient_bytes: float) -> States:
    """`width`: bytes of a weight in use. `gradient_bytes`: of a trained parameter's gradients, where they are kept.

    Stages below 2 keep gradients whole. Without ZeRO float32 weights are their own masters.
    """
    share = 1 / zero.ranks
    weights = width * (counted.total * share if zero.stage == 3 else counted.total)
    gradients = gradient_bytes * counted.trained * (share if zero.stage >= 2 else 1.0)
    masters = 0 if width == FLOAT32 and zero.stage == 0 else MASTER
    optimizer = (masters + MOMENTS) * counted.trained * (share if zero.stage >= 1 else 1.0)
    moved = weights if zero.offload_parameters else 0.0
    if not zero.offload_optimizer:
        return States(weights - moved, gradients, optimizer, moved)
    # Gradients leave for the host as they come, and wait there in float32; from stage 1 on the host also has the
    # new weights in their own precision before they go back.
    host = (MASTER + MOMENTS + FLOAT32) * counted.trained * share
    returning = width * counted.trained * share if zero.stage < 3 else 0.0
    return States(weights - moved, 0.0, 0.0, host + moved + returning)


def gathered(counted: Counted, zero: Zero, width: int) -> float:
    """Parameters that ZeRO-3 holds whole at once: as many as it may, the largest module at least, and the prefetch."""
    if zero.stage != 3:
        return 0.0
    live = max(MAX_LIVE, counted.largest) + PREFETCH
    return width * min(counted.total, live)


def estimators(counted: Counted, zero: Zero, nodes: int) -> tuple[float, float]:
    """(bytes of a node's memory, bytes of a GPU) as DeepSpeed's estimators of stage 2 and 3 count a bfloat16 model.

    They add 2 bytes of a bfloat16 gradient to ours at stage 2, leave gradients of an offloaded optimizer's GPU out,
    and count the largest layer's weights and gradients as all that stage 3 gathers.
    """
    found = states(counted, zero, 2, gradient_bytes=6 if zero.stage == 2 else 4)
    per_node = zero.ranks // nodes
    if zero.stage == 2:
        # Every process takes part in loading float32 weights; the states of an offloaded optimizer are not divided
        # by nodes in this estimate.
        host = counted.total * (max(4 * zero.ranks, 16) if zero.offload_optimizer else 4 * per_node)
        return host, found.device
    largest = 4.0 * counted.largest
    host = found.host * per_node if zero.offload_optimizer else 4.0 * counted.largest * per_node
    return host, found.device + largest
