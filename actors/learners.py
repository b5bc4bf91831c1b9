"""Hosts of the trained roles: one process per rank of the policy and of the critic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from torch import Tensor

from actors.network import collectives_at
from actors.process import RoleProcess
from rlhf import device
from rlhf.batch import Experience, Rollout, concatenate
from rlhf.errors import RunError
from rlhf.metrics import Metrics
from rlhf.ppo.config import LearnerConfig, PPOConfig
from rlhf.sampling.weight_transfer import TransferGroup, WeightInfo, WeightSender
from rlhf.sound import SoundDirectory

if TYPE_CHECKING:
    from actors.ipc_sync import EngineClient
    from rlhf.training.weight_source import PolicyWeights


EMA = "ema"  # directories below the published policy
ADAPTER = "adapter"


class LearnerProcess(RoleProcess):
    """One rank of a trained role. Built in two steps: rank 0 must exist before the others can meet it."""

    def __init__(self, rank: int, config: PPOConfig, settings: LearnerConfig, pad_token: int, work: Path) -> None:
        super().__init__(rank, settings.resources)
        self.config = config
        self.settings = settings
        self.pad_token = pad_token
        self.work = work
        self.learner: Any = None

    def join(self, address: str, port: int) -> None:
        """Meet the other ranks, load the model, and build the learner."""
        from rlhf.training.build import build_learner
        from rlhf.training.ranks import Rank, join_ranks

        collectives_at(ray.util.get_node_ip_address())
        join_ranks(Rank(self.rank, self.settings.resources.ranks, address, port))
        self.learner, self.model = build_learner(self.role, self.config, self.work)

    def update(self, experience: Experience, step: int) -> Metrics:
        """Train on this rank's share of the experience."""
        return self.learner.update(experience, step, self.config.seed * 1_000_003 + step)

    def save(self, directory: Path) -> None:
        """Write this rank's share below `directory`. Raises RunError where this node does not see the checkpoint that
        the driver has begun: the share would lie here alone."""
        if not directory.parent.is_dir():
            raise RunError(
                f"{directory.parent}: not there on the node of {self!r}; give an output on storage that every node "
                f"shares, by its absolute path"
            )
        self.learner.save(directory)

    def load(self, directory: SoundDirectory) -> None:
        self.learner.load(directory)

    def leave_device(self) -> None:
        """Weights and optimizer states go to host memory where the config says so."""
        if self.settings.zero.offload_during_rollout:
            self.learner.engine.leave_device()
        super().leave_device()

    def return_to_device(self) -> None:
        if self.settings.zero.offload_during_rollout:
            self.learner.engine.return_to_device()

    def _evaluate(self, shards: tuple[Rollout, ...]) -> tuple[Tensor, None]:
        return self.learner.evaluate(concatenate(shards, self.pad_token)), None


class PolicyProcess(LearnerProcess):
    """A rank of the policy."""

    role = "policy"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int, work: Path) -> None:
        super().__init__(rank, config, config.policy, pad_token, work)
        self.sender: WeightSender | None = None
        self.engines: EngineClient | None = None

    def logprobs(self, *shards: Rollout) -> tuple[Tensor, None]:
        """log π of this rank's rows, [b, T] float32, nats; and a receipt."""
        return self._evaluate(shards)

    def set_kl_coef(self, kl_coef: float) -> None:
        """β of the next update, where the KL stands in the loss."""
        self.learner.objective.kl_coef = kl_coef

    def weights(self) -> tuple[list[tuple[str, Tensor]] | None, None]:
        """Every weight under its transformers names, tied ones under each; rank 0 has them, the others help. And a
        receipt, to wait for without holding the weights."""
        from rlhf.training.weights import named_weights

        found = []
        for name, tensor in named_weights(self.learner.engine, self.model):
            if self.rank == 0:
                found.append((name, tensor.to("cpu", copy=True)))
        return found if self.rank == 0 else None, None

    def weight_infos(self) -> list[WeightInfo]:
        """What `send_weights` sends, in its order."""
        return self._source().metadata()

    def join_nccl(self, group: TransferGroup) -> None:
        """Make ready to send by NCCL. Returns when every engine has joined the group too."""
        from rlhf.sampling.vllm_engine import open_nccl_sender

        self.sender = open_nccl_sender(group, self.rank, self._source())

    def join_ipc(self, engines: EngineClient, bucket_bytes: int) -> None:
        """Make ready to share weights with engines on the same GPUs."""
        from rlhf.sampling.vllm_engine import open_ipc_sender

        self.engines = engines
        self.sender = open_ipc_sender(self.rank, bucket_bytes, engines, self._source())

    def send_weights(self, version: int) -> None:
        """Send the weights as policy version `version`. All ranks; rank 0 sends, the others help to gather."""
        device.synchronize()  # the senders read on streams of their own
        if self.engines is not None:
            self.engines.version = version
        self.sender.send_weights()

    def _source(self) -> PolicyWeights:
        from rlhf.training.weight_source import PolicyWeights

        return PolicyWeights(self.learner.engine, self.model)

    def export(self, directory: Path) -> None:
        """Rank 0 writes a transformers directory; below it averaged weights and adapters, where there are any."""
        from rlhf.training.lora import save_adapters
        from rlhf.training.weights import adapter_weights, export_model

        write, average = self.rank == 0, self.learner.average
        export_model(self.learner.engine, self.model, directory, write)
        if self.config.policy.lora is not None:
            adapters = adapter_weights(self.learner.engine, self.model)
            if write:
                save_adapters(adapters, self.config.policy.lora, self.settings.model, directory / ADAPTER)
        if average is not None:
            with average.in_place():
                export_model(self.learner.engine, self.model, directory / EMA, write)


class CriticProcess(LearnerProcess):
    """A rank of the critic."""

    role = "critic"

    def __init__(self, rank: int, config: PPOConfig, pad_token: int, work: Path) -> None:
        super().__init__(rank, config, config.critic, pad_token, work)

    def values(self, *shards: Rollout) -> tuple[Tensor, None]:
        """V of this rank's rows, [b, T] float32; and a receipt."""
        return self._evaluate(shards)
