"""TRL's trainers as oracles: their own code on given responses, scores and log-probabilities.

A trainer is built by its own constructor on a tiny model. Only what no definition depends on is given instead of
computed: the responses that would be sampled and, where a test asks for it, the log-probabilities of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer


class Table(torch.nn.Module):
    """Stands where a model stands and answers with the given log-probabilities [B, T] of its T last tokens."""

    is_gradient_checkpointing = False

    def __init__(self, logprobs: Tensor) -> None:
        super().__init__()
        self.logprobs = logprobs

    def forward(self, **inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(log_probs=self.logprobs, entropy=torch.zeros_like(self.logprobs))


def grpo(model: Path, output: Path, rows: int, group: int, **settings: Any) -> GRPOTrainer:
    """GRPO on micro-batches of `rows` responses, `group` to a prompt."""
    return _trainer(GRPOTrainer, GRPOConfig, model, output, rows, group, settings)


def rloo(model: Path, output: Path, rows: int, group: int, **settings: Any) -> RLOOTrainer:
    """RLOO on micro-batches of `rows` responses, `group` to a prompt."""
    return _trainer(RLOOTrainer, RLOOConfig, model, output, rows, group, settings)


def _trainer(trainer_class, config_class, model: Path, output: Path, rows: int, group: int, settings: dict) -> Any:
    config = config_class(
        output_dir=str(output), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        per_device_train_batch_size=rows, num_generations=group, **settings,
    )
    trainer = trainer_class(
        model=str(model), reward_funcs=lambda completions, scores, **_: scores, args=config,
        train_dataset=Dataset.from_dict({"prompt": ["1 2"] * rows}),
    )
    trainer.model.train()
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    return trainer


def experience(
    trainer: Any, completions: Sequence[Sequence[int]], scores: Sequence[float | None],
    sampler_logprobs: Sequence[Sequence[float]] | None = None,
) -> dict[str, Tensor]:
    """What TRL makes of sampled responses: masks, advantages, log-probabilities, importance ratios."""
    sampled = [list(ids) for ids in completions]
    grpo_answer = (sampled, sampler_logprobs)
    trainer._generate_single_turn = lambda *_: grpo_answer if isinstance(trainer, GRPOTrainer) else sampled
    return trainer._generate_and_score_completions([{"prompt": "1 2", "scores": score} for score in scores])


def advantages(trainer: Any, scores: Sequence[float | None]) -> Tensor:
    """TRL's advantages of these scores, [B]; the responses to a prompt are neighbours."""
    return experience(trainer, [[5, 6]] * len(scores), scores)["advantages"]


def loss_and_gradient(
    trainer: Any, logprobs: Tensor, advantages: Tensor, mask: Tensor, **given: Tensor
) -> tuple[Tensor, Tensor]:
    """TRL's loss of a micro-batch and its gradient [B, T] with respect to logprobs [B, T].

    mask [B, T] bool may have holes: they are TRL's tool tokens. `given` are further entries of its batch.
    """
    table = logprobs.clone().requires_grad_()
    rows, width = mask.shape
    prompt = torch.ones(rows, 1, dtype=torch.int64)
    reached = mask.flip(1).cumsum(1).flip(1) > 0
    batch = {
        "prompt_ids": prompt, "prompt_mask": prompt, "completion_ids": torch.ones(rows, width, dtype=torch.int64),
        "completion_mask": reached.long(), "advantages": advantages, "num_items_in_batch": mask.sum(), **given,
    }
    if isinstance(trainer, GRPOTrainer):
        batch["tool_mask"] = mask.long()
    loss = trainer.compute_loss(Table(table), batch)
    loss.backward()
    return loss.detach(), table.grad
