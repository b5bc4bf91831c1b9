"""Settings that all training stages share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rlhf.config import Config
from rlhf.device import Precision
from rlhf.not_finite import NotFiniteSteps, StopAtOnce


class WorkersConfig(Config):
    """Processes of a Ray Train job and what each reserves."""

    count: int = Field(2, ge=1, le=65_536, description="training processes")
    cpus: int = Field(1, ge=1, le=4_096, description="CPU cores of each, also its number of torch threads")
    gpus: int = Field(0, ge=0, le=1, description="GPUs of each: 0 trains on the CPU over gloo, 1 over NCCL")


class DeepSpeedConfig(Config):
    """How DeepSpeed divides model and optimizer over the workers (ZeRO, arXiv:1910.02054)."""

    zero_stage: Literal[0, 1, 2, 3] = Field(1, description="0 nothing, 1 optimizer, 2 and gradients, 3 and parameters")
    offload_optimizer: bool = Field(False, description="optimizer state in CPU memory (GPUs only; zero_stage 1 to 3)")
    offload_parameters: bool = Field(False, description="parameters in CPU memory (GPUs only; zero_stage 3)")

    @model_validator(mode="after")
    def _offload_needs_division(self) -> DeepSpeedConfig:
        if self.offload_parameters and self.zero_stage != 3:
            raise ValueError(f"offload_parameters needs zero_stage 3 (got {self.zero_stage})")
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1, 2 or 3 (got 0)")
        return self


class TrainingConfig(Config):
    """Optimisation, duration, validation and resources of one training job."""

    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule (AdamW)")
    schedule: Literal["constant", "linear", "cosine"] = Field("cosine", description="after warm-up: stay, or fall to 0")
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of the steps that the rate rises from 0")
    weight_decay: float = Field(0.0, ge=0, description="decoupled; not on biases and norms")
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    max_grad_norm: float = Field(1.0, gt=0, description="global gradient norm is clipped to this")
    batch_size: int = Field(64, gt=0, description="examples per optimizer step, over all workers")
    micro_batch_size: int = Field(32, gt=0, description="examples per forward pass of one worker")
    group_by_length: bool = Field(False, description="batches of examples of like length: less padding, less chance")
    epochs: float = Field(1.0, gt=0, le=1_000_000, description="passes over the training examples")
    max_steps: int | None = Field(None, gt=0, description="optimizer steps at most, if that comes before `epochs`")
    precision: Precision = Field("float32", description="float32, or bfloat16 with float32 master weights")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third more time")
    log_every: int = Field(10, gt=0, description="steps between two lines of metrics")
    eval_every: int = Field(100, gt=0, description="steps between two validations; each is also a checkpoint")
    early_stop_patience: int | None = Field(3, gt=0, description="stop after so many validations without a new best")
    max_failures: int = Field(1, ge=0, description="restarts of the workers from the newest checkpoint")
    deadline_s: float = Field(1800.0, gt=0, description="seconds without progress after which a worker is given up")
    not_finite: NotFiniteSteps = StopAtOnce()
    workers: WorkersConfig = WorkersConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()

    @model_validator(mode="after")
    def _batch_divides(self) -> TrainingConfig:
        per_pass = self.micro_batch_size * self.workers.count
        if self.batch_size % per_pass:
            raise ValueError(
                f"batch_size {self.batch_size} is not a multiple of micro_batch_size * workers.count = {per_pass}"
            )
        return self

    @property
    def accumulation(self) -> int:
        """Forward passes of each worker per optimizer step."""
        return self.batch_size // (self.micro_batch_size * self.workers.count)

    @property
    def steps_plainly(self) -> bool:
        """Without ZeRO in float32 DeepSpeed leaves it to the optimizer to look at the gradients."""
        return self.deepspeed.zero_stage == 0 and self.precision == "float32"

    def steps(self, examples: int) -> int:
        """Optimizer steps of the job on so many training examples; a last part of a batch is left out."""
        by_epochs = max(1, int(self.epochs * (examples // self.batch_size)))
        return by_epochs if self.max_steps is None else min(self.max_steps, by_epochs)
