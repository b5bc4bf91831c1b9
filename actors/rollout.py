"""Host of a rollout engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from actors.process import RoleProcess
from rlhf.batch import Rollout, from_completions
from rlhf.errors import StalePolicyError
from rlhf.metrics import Metrics, Sum
from rlhf.models.weights import read_weights
from rlhf.ppo.config import Resources
from rlhf.sampling.vllm_engine import Completion, EngineOptions, Sampling, VllmEngine, prepare_environment
from rlhf.sampling.weight_transfer import TransferGroup


class RolloutProcess(RoleProcess):
    """A vLLM engine with the version of its weights. A new one holds none that may sample."""

    role = "rollout"

    def __init__(self, rank: int, options: EngineOptions, resources: Resources, pad_token: int) -> None:
        prepare_environment(options)
        super().__init__(rank, resources)
        self.pad_token = pad_token
        self.engine = VllmEngine(options)

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, seeds: Sequence[int], version: int
    ) -> tuple[Rollout, Metrics]:
        """Sample this engine's share. Raises StalePolicyError when its weights are not those of `version`."""
        self._require(version)
        completions = self.engine.generate(prompts, [sampling] * len(prompts), seeds)
        rollout = from_completions(
            prompts, [c.token_ids for c in completions], [c.logprobs for c in completions],
            [c.finished for c in completions], self.pad_token, version,
        )
        return rollout, {"rollout/tokens": Sum(float(rollout.response_mask.sum()))}

    def complete(
        self, contexts: Sequence[Sequence[int]], samplings: Sequence[Sampling], seeds: Sequence[int], version: int
    ) -> list[Completion]:
        """One response per context. Raises StalePolicyError as `generate` does."""
        self._require(version)
        return self.engine.generate(contexts, samplings, seeds)

    def _require(self, version: int) -> None:
        if self.engine.version != version:
            raise StalePolicyError(
                f"rollout[{self.rank}] holds the weights of policy version {self.engine.version}, and version "
                f"{version} was asked for; publish the weights before sampling"
            )

    def load_weights(self, weights: list[tuple[str, Tensor]], version: int) -> None:
        self.engine.load_weights(weights, version)

    def keep_weights(self, version: int) -> None:
        """The weights that the engine was built with are those of `version`."""
        self.engine.weights_changed(version)

    def load_directory(self, directory: Path, version: int) -> None:
        """Take the weights of a transformers directory of the same architecture."""
        self.engine.load_weights(read_weights(directory), version)

    def workers(self) -> int:
        """Processes of the engine that hold weights."""
        return self.engine.options.tensor_parallel

    def join_nccl(self, group: TransferGroup) -> None:
        """Join the group of a transfer by NCCL. Returns when the sender and every other engine have joined too."""
        self.engine.init_weight_transfer(group.engine_info(self.rank))

    def receive_weights(self, update: dict[str, Any], version: int) -> None:
        """Receive all weights by NCCL; returns only if the policy sends meanwhile."""
        self.engine.start_weight_update()
        self.engine.update_weights(update)
        self.engine.finish_weight_update(version)

    def init_weight_transfer(self, info: dict[str, Any]) -> None:
        self.engine.init_weight_transfer(info)

    def start_weight_update(self) -> None:
        self.engine.start_weight_update()

    def update_weights(self, update: dict[str, Any]) -> None:
        self.engine.update_weights(update)

    def finish_weight_update(self, version: int) -> None:
        self.engine.finish_weight_update(version)

    def sleep(self) -> None:
        self.engine.sleep()

    def wake(self, part: str) -> None:
        self.engine.wake(part)  # type: ignore[arg-type]
