"""Names that configs and the mathematics share. Nothing heavy is imported here."""

from __future__ import annotations

from typing import Literal

KlEstimator = Literal["k1", "k2", "k3"]
Reduction = Literal[
    "token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "sequence_mean_token_sum_norm"
]
