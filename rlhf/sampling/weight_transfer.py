"""What both ends of a weight transfer agree on: which weights in which order, and who is which rank.

Plain data, without vLLM: the sending and the receiving end are built from it in `vllm_engine`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor

# Weights travel packed together: large enough that a transfer is bound by bandwidth and not by calls, small enough
# that two of them beside the model are no matter.
BUCKET_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class WeightInfo:
    """A weight that will be sent: its transformers name, its dtype on the wire, and its whole shape."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


class WeightSource(Protocol):
    """Weights to send, declared first and then yielded whole, one at a time, in the same order every time."""

    def metadata(self) -> list[WeightInfo]: ...

    def __iter__(self) -> Iterator[tuple[str, Tensor]]: ...


class WeightSender(Protocol):
    """The sending end on one rank of the policy."""

    def send_weights(self) -> None:
        """Send every weight once. All ranks call it: those that do not send help to gather."""


@dataclass(frozen=True)
class TransferGroup:
    """The group of an NCCL transfer: the policy's rank 0 is its rank 0, then come the workers, engine by engine.

    `workers` holds the number of workers of each engine (its tensor-parallel size); `address` and `port` are free
    for the rendezvous on the sender's node.
    """

    address: str
    port: int
    workers: tuple[int, ...]
    bucket_bytes: int

    @property
    def size(self) -> int:
        """Ranks of the group: the sender and every worker of every engine."""
        return 1 + sum(self.workers)

    def offset(self, engine: int) -> int:
        """Rank of the first worker of an engine; its others follow."""
        return 1 + sum(self.workers[:engine])

    def engine_info(self, engine: int) -> dict[str, Any]:
        """What `init_weight_transfer_engine` of an engine is told."""
        return {
            "master_address": self.address, "master_port": self.port, "rank_offset": self.offset(engine),
            "world_size": self.size, "packed": True, "packed_buffer_size_bytes": self.bucket_bytes,
        }


def bucket_bytes(weights: Sequence[WeightInfo]) -> int:
    """Size of a bucket that takes the largest weight whole."""
    return max(BUCKET_BYTES, *(weight.bytes for weight in weights))


def update_info(weights: Sequence[WeightInfo]) -> dict[str, Any]:
    """What `update_weights` of an engine is told of the weights that follow by NCCL."""
    return {
        "names": [weight.name for weight in weights],
        "dtype_names": [str(weight.dtype).removeprefix("torch.") for weight in weights],
        "shapes": [list(weight.shape) for weight in weights],
    }
