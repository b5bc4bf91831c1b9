"""From the scores of the parts to one score per response. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.metrics import Mean, Metrics
from rlhf.rewards.config import BatchNormalisation, Contribution, FixedNormalisation, Normalisation

DEVIATION_FLOOR = 1e-6  # of a part that scores all rows alike: its scores say nothing, and become 0


@dataclass(frozen=True)
class Total:
    """scores [B] float32, 0 where a part failed; failed [B] bool; `applies` [B, K] bool, which parts scored a row."""

    scores: Tensor
    failed: Tensor
    applies: Tensor


def total(sheet: Tensor, sources: Sequence[str], parts: Sequence[Contribution]) -> Total:
    """Σ_k weight_k · normalised score_k over the parts that apply to each row.

    sheet [B, K] float32, NaN where a part that applies failed; sources, the data source of each row.
    """
    applies = torch.zeros(sheet.shape, dtype=torch.bool)
    for k, part in enumerate(parts):
        applies[:, k] = torch.tensor(part.applies_to(sources), dtype=torch.bool)
    failed = (sheet.isnan() & applies).any(dim=1)
    scores = torch.zeros(len(sheet))
    for k, part in enumerate(parts):
        rows = applies[:, k] & ~failed
        scores[rows] += part.weight * normalised(sheet[rows, k], part.normalise)
    return Total(scores, failed, applies)


def normalised(scores: Tensor, config: Normalisation) -> Tensor:
    """Scores [b] float32 in the units that the config asks for."""
    if isinstance(config, FixedNormalisation):
        return (scores - config.mean) / config.deviation
    if isinstance(config, BatchNormalisation) and len(scores):
        return (scores - scores.mean()) / scores.std(correction=0).clamp(min=DEVIATION_FLOOR)
    return scores


def shown(sheet: Tensor, found: Total) -> Tensor:
    """The sheet for people: NaN also where a part does not apply. [B, K]."""
    return sheet.masked_fill(~found.applies, torch.nan)


def describe_parts(sheet: Tensor, found: Total, names: Sequence[str]) -> Metrics:
    """Mean raw score of each part over the rows that it scored, and the share of rows without a score."""
    metrics: Metrics = {"reward/failed_fraction": Mean(float(found.failed.sum()), float(len(sheet)))}
    for k, name in enumerate(names):
        scored = sheet[found.applies[:, k] & ~sheet[:, k].isnan(), k]
        if len(scored):
            metrics[f"reward/part/{name}"] = Mean(float(scored.sum()), float(len(scored)))
    return metrics
