"""The three trainers: transformers' for pretraining, TRL's for SFT and the reward model.

Their training sets are token arrays made beforehand, so no process tokenises, and their validation is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer, TrainingArguments
from transformers.integrations.deepspeed import set_hf_deepspeed_config, unset_hf_deepspeed_config
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf.models.loading import load_tokenizer
from rlhf.training.arguments import training_arguments
from rlhf.training.ending import EndOnRequest
from rlhf.training.evaluation import SummedEvaluation, language_model_metrics, language_model_sums
from rlhf.training.examples import collate_blocks, read_examples
from rlhf.training.first_step import UndoFirstStep
from rlhf.training.guard import Guarded, StepByNorm, StopOnFailure
from rlhf.training.jobs import TrainJob
from rlhf.training.order import SeededOrder
from rlhf.training.reporting import RayReport
from rlhf.training.since_logged import KeepSums
from rlhf.training.standing import Positioned, Standing
from rlhf.training.start import initial_model


class PretrainTrainer(Positioned, Guarded, SeededOrder, SummedEvaluation, Trainer):
    """Next-token prediction on blocks of equal length."""

    eval_sums = staticmethod(language_model_sums)
    eval_metrics = staticmethod(language_model_metrics)


class SftTrainer(Positioned, Guarded, SeededOrder, SummedEvaluation, SFTTrainer):
    """Next-token prediction on the tokens that the assistant wrote."""

    eval_sums = staticmethod(language_model_sums)
    eval_metrics = staticmethod(language_model_metrics)


class RewardModelTrainer(Positioned, Guarded, SeededOrder, SummedEvaluation, RewardTrainer):
    """Bradley-Terry loss on pairs: −log σ(score of chosen − score of rejected)."""

    @staticmethod
    def eval_sums(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
        """[3] float64: summed loss in nats, number of pairs, number of pairs ranked rightly."""
        chosen, rejected = model(**batch, use_cache=False).logits.squeeze(-1).double().chunk(2)
        margin = chosen - rejected
        loss = -torch.nn.functional.logsigmoid(margin).sum()
        return torch.stack([loss, torch.ones_like(margin).sum(), (margin > 0).double().sum()])

    @staticmethod
    def eval_metrics(sums: torch.Tensor) -> dict[str, float]:
        return {"loss": float(sums[0] / sums[1]), "accuracy": float(sums[2] / sums[1])}


_TRAINERS: dict[str, Any] = {"pretrain": PretrainTrainer, "sft": SftTrainer, "reward": RewardModelTrainer}
_ARGUMENTS = {"pretrain": TrainingArguments, "sft": SFTConfig, "reward": RewardConfig}


def build_trainer(job: TrainJob, scratch: str, standing: Standing) -> Trainer:
    """The trainer of a job, its checkpoints going to `scratch`, a directory of this process alone; `standing` is told
    where it is."""
    shared = training_arguments(job.training, job.total_steps, job.seed, scratch)
    train, validation = read_examples(job.examples)
    tokenizer = load_tokenizer(job.tokenizer)
    common: dict[str, Any] = {"train_dataset": train, "eval_dataset": validation, "processing_class": tokenizer}
    # the length of the examples is final; TRL need not look at it
    args = _ARGUMENTS[job.kind](**shared, **({} if job.kind == "pretrain" else {"max_length": None}))
    with _weights_whole_on_cpu(args):
        model = initial_model(job.kind, job.model, tokenizer, job.seed)
    if job.kind == "pretrain":
        common["data_collator"] = collate_blocks
    trainer = _TRAINERS[job.kind](model, args, **common)
    trainer.job, trainer.standing = job, standing
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(StopOnFailure(trainer))
    trainer.add_callback(KeepSums(trainer))
    if job.training.steps_plainly:
        trainer.add_callback(StepByNorm(trainer))
    elif job.training.deepspeed.zero_stage == 0:
        trainer.add_callback(UndoFirstStep())
    trainer.add_callback(RayReport(job))
    trainer.add_callback(EndOnRequest(job))
    if job.training.early_stop_patience:
        trainer.add_callback(EarlyStoppingCallback(job.training.early_stop_patience))
    return trainer


@contextmanager
def _weights_whole_on_cpu(args: TrainingArguments) -> Iterator[None]:
    """Load plainly on a CPU, also with ZeRO-3, which divides weights as they are loaded.

    For that, DeepSpeed has to know the ranks; on GPUs the arguments tell it, on CPUs only the trainer does.
    """
    if args.device.type != "cpu":
        yield
        return
    unset_hf_deepspeed_config()
    yield
    set_hf_deepspeed_config(args.hf_deepspeed_config)
