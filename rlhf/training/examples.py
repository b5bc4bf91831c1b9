"""Training examples as token arrays on disk: written once by the driver, memory-mapped by every worker."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

LENGTH = "length"  # the column that transformers groups by
Columns = Mapping[str, Sequence[Sequence[int]]]
"""Column name → one list of token ids (or labels) per example."""


def write_examples(directory: Path, train: Columns, validation: Mapping[str, Columns]) -> None:
    """Write a training set and a validation set per group."""
    import datasets

    datasets.disable_progress_bars()
    shutil.rmtree(directory, ignore_errors=True)
    parts = {"train": train, **{f"validation/{group}": columns for group, columns in validation.items()}}
    for name, columns in parts.items():
        lengths = [max(map(len, example)) for example in zip(*columns.values(), strict=True)]
        datasets.Dataset.from_dict({**columns, LENGTH: lengths}).save_to_disk(directory / name)


def read_examples(directory: Path) -> tuple[Dataset, dict[str, Dataset]]:
    """The training set and the validation set per group."""
    import datasets

    groups = sorted((directory / "validation").iterdir())
    return (
        datasets.load_from_disk(directory / "train"),
        {path.name: datasets.load_from_disk(path) for path in groups},
    )


def collate_blocks(rows: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """Blocks of equal length → input_ids and labels, both [B, T] int64."""
    import torch

    return {key: torch.tensor([row[key] for row in rows], dtype=torch.int64) for key in ("input_ids", "labels")}
