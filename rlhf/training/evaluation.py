"""Validation by exact sums over tokens or pairs, however they fall into batches and ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.distributed as dist


class SummedEvaluation:
    """Gives a transformers Trainer an `evaluate` that adds up sums instead of averaging means of batches.

    The validation set is a mapping of group (a language) → dataset. A subclass says with `eval_sums` what a
    batch adds ([3] float64: summed loss, number of items that it runs over, number of items judged rightly), and
    with `eval_metrics` what numbers follow from the sums of a group.
    """

    eval_sums: Callable[[Any, Mapping[str, Any]], torch.Tensor]
    eval_metrics: Callable[[torch.Tensor], dict[str, float]]

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Metrics over all groups, and per group with its name as suffix; the same on every rank."""
        groups: Mapping[str, Any] = self.eval_dataset
        model = self.model_wrapped
        model.eval()
        with torch.no_grad():
            sums = torch.stack([self._group_sums(model, dataset) for dataset in groups.values()])
        dist.all_reduce(sums)
        model.train()
        metrics = self.eval_metrics(sums.sum(0))
        if len(groups) > 1:
            for name, group in zip(groups, sums, strict=True):
                metrics |= {f"{key}_{name}": value for key, value in self.eval_metrics(group).items()}
        metrics = {f"{metric_key_prefix}_{key}": value for key, value in metrics.items()}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _group_sums(self, model: Any, dataset: Any) -> torch.Tensor:
        """[3] sums of this rank's batches; a rank without one runs another's and counts nothing, since with
        parameters divided over ranks (ZeRO-3) all have to run equally many."""
        size, ranks, rank = self.args.per_device_eval_batch_size, self.args.world_size, self.args.process_index
        batches = math.ceil(len(dataset) / size)
        sums = torch.zeros(3, dtype=torch.float64, device=self.args.device)
        for first in range(0, batches, ranks):
            index = first + rank
            start = (index if index < batches else 0) * size
            rows = [dataset[i] for i in range(start, min(start + size, len(dataset)))]
            found = self.eval_sums(model, self._prepare_inputs(self.data_collator(rows)))
            sums += found if index < batches else 0.0
        return sums


def language_model_sums(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """[3] float64: summed negative log-likelihood in nats, number of predicted tokens, 0."""
    labels = batch["labels"]
    count = int((labels[:, 1:] != -100).sum())
    loss = model(**batch, use_cache=False).loss
    return torch.tensor([float(loss) * count if count else 0.0, count, 0.0], dtype=torch.float64, device=labels.device)


def language_model_metrics(sums: torch.Tensor) -> dict[str, float]:
    """Mean loss in nats per token, and its perplexity."""
    loss = float(sums[0] / sums[1])
    return {"loss": loss, "perplexity": math.exp(min(loss, 700.0))}
