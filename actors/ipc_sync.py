"""New weights by CUDA IPC: policy rank k packs them into memory of its GPU, and the engine there reads them."""

from __future__ import annotations

from typing import Any

import ray

from actors.pool import Pending, Pool
from rlhf.sampling.vllm_engine import NOT_PUBLISHED
from rlhf.sampling.weight_transfer import bucket_bytes


class CudaIpcSync:
    """Between processes that share a GPU: only handles of device memory travel, the weights are copied once.

    Each policy rank offers its bucket under its GPU's UUID, and rank 0 asks the engines to read, bucket after
    bucket; an engine picks the one on its own GPU. The handles reach an engine through Ray and stay in that process,
    where the engine's one worker lives, so vLLM pickles nothing.
    """

    def __init__(self, policy: Pool, rollout: Pool) -> None:
        self.policy = policy
        weights = ray.get(policy.ask(0, "weight_infos"))[0]
        policy.call_all("join_ipc", EngineClient(rollout.actors), bucket_bytes(weights)).get()

    def publish(self, version: int) -> Pending[None]:
        """Every engine holds the policy's weights, under `version`, when the handle is ready."""
        return self.policy.call_all("send_weights", version)


class EngineClient:
    """The engines as vLLM's sender calls them: each call goes to all and waits for all. Used by the policy's rank 0.

    `version` is what the weights count as when they are complete.
    """

    def __init__(self, engines: list[Any]) -> None:
        self.engines = engines
        self.version = NOT_PUBLISHED

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call("init_weight_transfer", init_info)

    def start_weight_update(self) -> None:
        self._call("start_weight_update")

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self._call("update_weights", update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call("finish_weight_update", self.version)

    def _call(self, method: str, *arguments: Any) -> None:
        Pool("rollout", self.engines).call_all(method, *arguments).get()
