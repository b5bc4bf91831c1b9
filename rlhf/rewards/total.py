"""From the scores of the parts to one score per response. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf.metrics import Mean, Metrics
from rlhf.rewards.config import BatchNormalisation, Contribution, FixedNormalisation, Normalisation

DEVIATION_FLOOR = 1e-6  # of a part that scores all rows alike: its scores say nothing, and become 0


@dataclass(frozen=True)
class Total:
    """What K parts of a reward say of B rows.

    scores [B] float32, 0 where a part failed; failed [B] bool; sheet [B, K] float32, what each part said, NaN where it
    failed; applies [B, K] bool, which parts scored a row; names, those of the parts.
    """

    scores: Tensor
    failed: Tensor
    sheet: Tensor
    applies: Tensor
    names: Sequence[str]

    def shown(self) -> dict[str, Tensor]:
        """The scores of each part for people: NaN also where it does not apply; [B] each."""
        visible = self.sheet.masked_fill(~self.applies, torch.nan)
        return {name: visible[:, k] for k, name in enumerate(self.names)}

    def without_score(self) -> list[list[str]]:
        """Row by row, the parts that failed."""
        missing = (self.sheet.isnan() & self.applies).tolist()
        return [[name for name, is_missing in zip(self.names, row, strict=True) if is_missing] for row in missing]


def total(sheet: Tensor, sources: Sequence[str], parts: Mapping[str, Contribution]) -> Total:
    """Σ_k weight_k · normalised score_k over the parts that apply to each row.

    sheet [B, K] float32, NaN where a part that applies failed; sources, the data source of each row; parts by name.
    """
    applies = torch.zeros(sheet.shape, dtype=torch.bool)
    for k, part in enumerate(parts.values()):
        applies[:, k] = torch.tensor(part.applies_to(sources), dtype=torch.bool)
    failed = (sheet.isnan() & applies).any(dim=1)
    scores = torch.zeros(len(sheet))
    for k, part in enumerate(parts.values()):
        rows = applies[:, k] & ~failed
        scores[rows] += part.weight * normalised(sheet[rows, k], part.normalise)
    return Total(scores, failed, sheet, applies, list(parts))


def normalised(scores: Tensor, config: Normalisation) -> Tensor:
    """Scores [b] float32 in the units that the config asks for."""
    if isinstance(config, FixedNormalisation):
        return (scores - config.mean) / config.deviation
    if isinstance(config, BatchNormalisation) and len(scores):
        return (scores - scores.mean()) / scores.std(correction=0).clamp(min=DEVIATION_FLOOR)
    return scores


def describe_parts(found: Total) -> Metrics:
    """Mean raw score of each part over the rows that it scored, and the share of rows without a score."""
    metrics: Metrics = {"reward/failed_fraction": Mean(float(found.failed.sum()), float(len(found.sheet)))}
    for name, scores in found.shown().items():
        scored = scores[~scores.isnan()]
        if len(scored):
            metrics[f"reward/part/{name}"] = Mean(float(scored.sum()), float(len(scored)))
    return metrics
