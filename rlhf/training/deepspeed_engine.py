"""A module trained by DeepSpeed at any ZeRO stage."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from rlhf.device import current, has_gpu
from rlhf.ppo.config import LearnerConfig, OptimizerConfig
from rlhf.sound import SoundDirectory
from rlhf.training import deepspeed_state, pickles
from rlhf.training.operators import OFFLOADED_ADAM, load_operator

CHECKPOINT_TAG = "state"


def learning_rate(config: OptimizerConfig, step: int, total: int) -> float:
    """The learning rate of optimizer step `step` (from 0) of `total`: linear warm-up, then the schedule."""
    warmup = round(config.warmup_fraction * total)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if config.schedule == "linear":
        return config.learning_rate * (1.0 - progress)
    if config.schedule == "cosine":
        return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate


class DeepSpeedEngine:
    """Forward, backward, step, gather, save and load of one module over the ranks of its role.

    The learning rate is a pure function of the optimizer step, so no scheduler state exists. Losses are
    given as sums over this rank's share of what one optimizer step averages over.
    """

    def __init__(self, module: nn.Module, config: LearnerConfig, total_steps: int) -> None:
        import deepspeed

        self.config = config
        self.total_steps = total_steps
        self.steps_done = 0
        self.left_out = 0  # of the last steps, in a row
        self.ranks = dist.get_world_size()
        if config.zero.offload_optimizer:
            load_operator(OFFLOADED_ADAM)
        parameters = [p for p in module.parameters() if p.requires_grad]
        own_optimizer = None if config.zero.offload_optimizer else _adamw(parameters, config.optimizer)
        self.engine, self.optimizer, _, _ = deepspeed.initialize(
            model=module, optimizer=own_optimizer, model_parameters=parameters, config=deepspeed_config(config),
        )
        if config.zero.stage == 0 and config.precision == "bfloat16":
            deepspeed_state.undo_first_step(self.optimizer)

    @property
    def module(self) -> nn.Module:
        return self.engine.module

    def __call__(self, *inputs: Tensor) -> Any:
        """The module's output, with gradient when gradients are enabled."""
        return self.engine(*inputs)

    def backward(self, loss: Tensor, last: bool) -> None:
        """Accumulate gradients; `last` says that the optimizer step follows. DeepSpeed averages over ranks,
        while our losses are shares of one sum: hence the factor."""
        self.engine.set_gradient_accumulation_boundary(last)
        self.engine.backward(loss * self.ranks, scale_wrt_gas=False)

    def step(self) -> tuple[float, float]:
        """One optimizer step; returns the gradient norm before clipping, the same on all ranks, and the learning rate.

        A norm that is not finite changes no weight and no state of the optimizer, and the step counts.
        """
        rate = learning_rate(self.config.optimizer, self.steps_done, self.total_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = self._plain_step() if self._is_plain else self._own_step()
        self.steps_done += 1
        self.left_out = 0 if math.isfinite(norm) else self.left_out + 1
        return norm, rate

    @property
    def _is_plain(self) -> bool:
        """Without ZeRO in float32 DeepSpeed clips, but neither reports nor looks at the norm."""
        return self.config.zero.stage == 0 and self.config.precision == "float32"

    def _plain_step(self) -> float:
        gradients = [p.grad for p in self.module.parameters() if p.grad is not None]
        norm = float(torch.nn.utils.get_total_norm(gradients)) if gradients else 0.0
        if math.isfinite(norm):
            self.engine.step()
        else:
            self.engine.zero_grad()
        return norm

    def _own_step(self) -> float:
        """DeepSpeed's optimizers pass over a step whose norm is not finite, and say inf or −1."""
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm())
        return norm if norm >= 0 else math.inf

    @contextmanager
    def whole(self, parameters: Sequence[nn.Parameter]) -> Iterator[None]:
        """Inside the block these parameters are whole on every rank. A collective under ZeRO-3: all ranks enter it."""
        import deepspeed

        with deepspeed.zero.GatheredParameters(list(parameters), enabled=self.config.zero.stage == 3):
            yield

    def leave_device(self) -> None:
        """Move weights, float32 masters and optimizer states to host memory. ZeRO stage 2."""
        self.engine.offload_states(pin_memory=has_gpu())

    def return_to_device(self) -> None:
        """Undo `leave_device`."""
        self.engine.reload_states()

    def save(self, directory: Path) -> None:
        """Write this rank's share of weights and optimizer state below `directory`; all ranks call it."""
        state = {"steps_done": self.steps_done, "left_out": self.left_out, **deepspeed_state.client_state()}
        self.engine.save_checkpoint(str(directory), tag=CHECKPOINT_TAG, client_state=state, save_latest=False)

    def load(self, directory: SoundDirectory) -> None:
        """Take the state that `save` wrote; from another number of ranks it is divided anew first. All ranks call
        it."""
        saved = deepspeed_state.saved_ranks(directory.path / CHECKPOINT_TAG)
        if saved in (0, self.ranks):
            return self._load(directory)
        kept = pickles.kept_beside(directory, CHECKPOINT_TAG)
        if kept["steps_done"] == kept.get("left_out", 0):  # no step was made: it is as it began, and Adam has no state
            return self._take(kept)
        beside = deepspeed_state.beside(directory.path)
        divided = pickles.divided(directory, beside, CHECKPOINT_TAG, write=dist.get_rank() == 0)
        dist.barrier()
        self.engine._config.load_universal_checkpoint = True  # DeepSpeed reads it from its config only
        try:
            self._load(divided)
        finally:
            self.engine._config.load_universal_checkpoint = False
        dist.barrier()
        if dist.get_rank() == 0:
            shutil.rmtree(beside)

    def _load(self, directory: SoundDirectory) -> None:
        self._take(pickles.load_state(self.engine, directory, CHECKPOINT_TAG))

    def _take(self, kept: Mapping[str, Any]) -> None:
        self.steps_done, self.left_out = kept["steps_done"], kept.get("left_out", 0)


def deepspeed_config(config: LearnerConfig) -> dict[str, Any]:
    """The DeepSpeed config of a learner. Accumulation is driven by hand: micro-batches differ from step to step."""
    zero: dict[str, Any] = {"stage": config.zero.stage, "overlap_comm": has_gpu(), "contiguous_gradients": True}
    content: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        # What is not finite is passed over under ZeRO-2 in bfloat16 only where DeepSpeed is told to look.
        "bf16": {"enabled": config.precision == "bfloat16", "check_grad_overflow": True},
        "steps_per_print": 1_000_000_000,
    }
    if config.precision == "bfloat16" and config.zero.stage > 0:
        # Micro-batches add up in float32; DeepSpeed allows it only where ZeRO keeps the float32 masters itself.
        content["data_types"] = {"grad_accum_dtype": "fp32"}
    if config.zero.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
        content["optimizer"] = {"type": "AdamW", "params": _adamw_settings(config.optimizer)}
    return content


def place(module: nn.Module, zero_stage: int) -> nn.Module:
    """Move a module to this process's device, unless ZeRO-3 will place the shares itself."""
    return module if zero_stage == 3 else module.to(current())


def _adamw_settings(config: OptimizerConfig) -> dict[str, Any]:
    return {
        "lr": config.learning_rate, "betas": tuple(config.betas), "eps": config.epsilon,
        "weight_decay": config.weight_decay,
    }


def _adamw(parameters: list[nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, fused=True, **_adamw_settings(config))
