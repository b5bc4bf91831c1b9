"""The workers of a Ray Train job (pretrain, sft, reward): what each holds, and how long an optimizer step takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rlhf.models.loading import NewModelConfig
from rlhf.plan.architecture import Architecture
from rlhf.plan.assumptions import Assumptions
from rlhf.plan.demands import BYTES, Demand
from rlhf.plan.hardware import Cluster, Gpu
from rlhf.plan.limit import Work
from rlhf.plan.phases import Iteration, phase
from rlhf.plan.role_times import RoleTimes
from rlhf.plan.sizes import Sizes
from rlhf.plan.states import Zero
from rlhf.plan.trained import Output, Trained
from rlhf.roles import Resources
from rlhf.training.config import TrainingConfig

Kind = Literal["pretrain", "sft", "reward"]
_OUTPUTS = {"pretrain": Output.LOGITS, "sft": Output.FUSED, "reward": Output.SCORE}


@dataclass(frozen=True)
class TrainStage:
    """What a plan needs of the config of a training stage. `length`: tokens of its longest row; `rows`: rows of an
    example, two where it is a pair."""

    kind: Kind
    training: TrainingConfig
    model: Architecture
    length: int
    rows: int

    @classmethod
    def of(cls, kind: Kind, config: Any, sizes: Sizes) -> TrainStage:
        """Of the validated config of a stage. Raises ConfigError when the model's sizes are not known."""
        if kind == "pretrain":
            new = isinstance(config.model, NewModelConfig)
            model = sizes.new(config.model, config.tokenizer) if new else sizes.of(config.model.path, "model.path")
            return cls(kind, config.training, model, config.block_length, 1)
        model = sizes.of(config.model, "model")
        if kind == "reward":
            return cls(kind, config.training, model.scored(), config.max_length, 2)
        return cls(kind, config.training, model, config.max_length, 1)

    def demand(self) -> Demand:
        """Its workers."""
        training, workers = self.training, self.training.workers
        zero = Zero(
            training.deepspeed.zero_stage, workers.count, training.deepspeed.offload_optimizer,
            training.deepspeed.offload_parameters,
        )
        width = BYTES[training.precision]
        trained = Trained(
            self.model, zero, width, self.model.parameters, training.micro_batch_size * self.rows * self.length,
            _OUTPUTS[self.kind], training.gradient_checkpointing,
            accumulated=width,  # transformers' DeepSpeed settings add gradients up in the precision of the weights
        )
        return Demand("worker", Resources(ranks=workers.count, cpus=workers.cpus, gpus=workers.gpus), trained)

    def step(self, cluster: Cluster, assumed: Assumptions) -> Iteration:
        """One optimizer step with every row as long as it may be."""
        assert cluster.gpu is not None
        times = RoleTimes(cluster, assumed, Work(self.training.batch_size * self.rows, self.length, 0, 0))

        def seconds(gpu: Gpu) -> float:
            return times.training(self.demand(), gpu, optimizer_steps=1)

        note = f"{self.training.batch_size * self.rows * self.length} tokens"
        return Iteration((phase("optimizer step", cluster.gpu, assumed, seconds, note),))
