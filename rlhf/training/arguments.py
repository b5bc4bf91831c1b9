"""A TrainingConfig in the words of transformers and DeepSpeed."""

from __future__ import annotations

from typing import Any

from rlhf.training.config import TrainingConfig

_NEVER = 2**31 - 1
_SCHEDULES = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine"}


def training_arguments(config: TrainingConfig, total_steps: int, seed: int, output_dir: str) -> dict[str, Any]:
    """Keyword arguments of `transformers.TrainingArguments` and of TRL's configs, which extend it."""
    return {
        "output_dir": output_dir,
        "per_device_train_batch_size": config.micro_batch_size,
        "per_device_eval_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": config.accumulation,
        "max_steps": total_steps,
        "dataloader_drop_last": True,
        "train_sampling_strategy": "group_by_length" if config.group_by_length else "random",
        "learning_rate": config.learning_rate,
        "lr_scheduler_type": _SCHEDULES[config.schedule],
        "warmup_steps": round(config.warmup_ratio * total_steps),
        "weight_decay": config.weight_decay,
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "max_grad_norm": config.max_grad_norm,
        "bf16": config.precision == "bfloat16",
        "gradient_checkpointing": config.gradient_checkpointing,
        "use_cpu": config.workers.gpus == 0,
        "deepspeed": deepspeed_settings(config),
        "logging_steps": config.log_every,
        "logging_nan_inf_filter": False,
        "eval_strategy": "steps",
        "eval_steps": config.eval_every,
        "save_strategy": "steps",
        "save_steps": config.eval_every,
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has been patient
        "metric_for_best_model": "eval_loss",
        "greater_is_better": False,
        "report_to": "none",
        "disable_tqdm": True,
        "log_level": "error",
        "log_level_replica": "error",
        "seed": seed,
        "data_seed": seed,
    }


def deepspeed_settings(config: TrainingConfig) -> dict[str, Any]:
    """The DeepSpeed configuration; "auto" is filled in by transformers from its own arguments."""
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if config.deepspeed.zero_stage == 3:
        zero["stage3_gather_16bit_weights_on_model_save"] = True  # else a checkpoint holds shards only
    if config.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    if config.deepspeed.offload_parameters:
        zero["offload_param"] = {"device": "cpu", "pin_memory": True}
    return {
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,  # AdamW comes from torch: nothing has to be compiled for it
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": "auto"},
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "steps_per_print": _NEVER,
    }
