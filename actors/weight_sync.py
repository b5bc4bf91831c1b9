"""How new policy weights travel from the learner to the engines, chosen by `rollout.weight_sync.kind`."""

from __future__ import annotations

from collections.abc import Callable

from actors.ipc_sync import CudaIpcSync
from actors.nccl_sync import NcclSync
from actors.pool import Pending, Pool
from rlhf.interfaces import Nothing, WeightSync


class ObjectStoreSync:
    """Through host memory and Ray's object store: works everywhere, and moves every weight twice.

    The driver only passes a reference on; rank 0's list of weights goes to the engines directly.
    """

    def __init__(self, policy: Pool, rollout: Pool) -> None:
        self.policy = policy
        self.rollout = rollout

    def publish(self, version: int) -> Pending[None]:
        """Every engine holds the policy's weights, under `version`, when the handle is ready."""
        sent = self.policy.call_tensors("weights")
        return Pending([*sent.receipts, *self.rollout.call("load_weights", sent.parts[0], version)], lambda _: None)


class AsLoaded:
    """Engines that sample for nobody who learns: the weights that they were built with are the policy's."""

    def __init__(self, rollout: Pool) -> None:
        self.rollout = rollout

    def publish(self, version: int) -> Pending[None]:
        """Every engine counts its weights as those of `version` when the handle is ready."""
        return self.rollout.call_all("keep_weights", version)


class NoEngines:
    """Nobody samples, so nobody wants weights."""

    def publish(self, version: int) -> Nothing:
        return Nothing()


SYNCS: dict[str, Callable[[Pool, Pool], WeightSync]] = {
    "object_store": ObjectStoreSync,
    "nccl": NcclSync,
    "cuda_ipc": CudaIpcSync,
}


def weight_sync(kind: str, policy: Pool, rollout: Pool) -> WeightSync:
    """The way of `kind`, connected: both pools must be ready."""
    return SYNCS[kind](policy, rollout)
