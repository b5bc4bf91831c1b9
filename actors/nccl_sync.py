"""New weights by NCCL broadcast: from the policy's rank 0 to every worker of every engine, GPU to GPU."""

from __future__ import annotations

import ray

from actors.pool import Pending, Pool
from rlhf.sampling.weight_transfer import TransferGroup, bucket_bytes, update_info


class NcclSync:
    """Through one NCCL group of the policy's rank 0 and all engine workers, each on a GPU of its own.

    Both ends of a broadcast wait for each other, so the driver starts them together and waits for all at once: the
    first failure on either side is raised, whoever still waits inside NCCL. The weights never pass the driver.
    """

    def __init__(self, policy: Pool, rollout: Pool) -> None:
        self.policy = policy
        self.rollout = rollout
        weights, (address, port) = ray.get([*policy.ask(0, "weight_infos"), *policy.ask(0, "address")])
        workers = ray.get(rollout.call("workers"))
        group = TransferGroup(address, port, tuple(workers), bucket_bytes(weights))
        self.update = update_info(weights)
        _together(rollout.call("join_nccl", group), policy.call("join_nccl", group)).get()

    def publish(self, version: int) -> Pending[None]:
        """Every engine holds the policy's weights, under `version`, when the handle is ready."""
        receiving = self.rollout.call("receive_weights", self.update, version)
        return _together(receiving, self.policy.call("send_weights", version))


def _together(*calls: list[ray.ObjectRef]) -> Pending[None]:
    return Pending([ref for refs in calls for ref in refs], lambda _: None)
