"""The order of the training examples: of every epoch its own, and the same again on a resume.

transformers' sampler by length draws an epoch's order from the process's generator, which on a resume is put back only
after that: from the second epoch on, a run that goes on would see other batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch.utils.data import Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from rlhf.training.examples import LENGTH

Order = Callable[[torch.Generator], Sequence[int]]


class EpochOrder(Sampler):
    """Indices in an order drawn by a generator that is seeded with `seed` + epoch. Equal on all ranks."""

    def __init__(self, size: int, order: Order, seed: int, epoch: Callable[[], int]) -> None:
        self._size, self._order, self._seed, self._epoch = size, order, seed, epoch

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[int]:
        return iter(self._order(torch.Generator().manual_seed(self._seed + self._epoch())))


class SeededOrder:
    """Gives a transformers Trainer, whose sets have a column of lengths, an order that only seed and epoch decide."""

    def _get_train_sampler(self, train_dataset=None) -> EpochOrder:
        lengths = self.train_dataset[LENGTH][:]  # the set that is handed over may have lost the column
        batch = self.args.train_batch_size * self.args.gradient_accumulation_steps
        grouped = self.args.train_sampling_strategy == "group_by_length"
        order = partial(by_length, lengths, batch) if grouped else partial(shuffled, len(lengths))
        # state.epoch is the fraction that is done, so it is a whole number at the beginning of an epoch
        return EpochOrder(len(lengths), order, self.args.data_seed, lambda: int(self.state.epoch or 0))


def by_length(lengths: list[int], batch: int, generator: torch.Generator) -> list[int]:
    return get_length_grouped_indices(lengths, batch, generator=generator)


def shuffled(size: int, generator: torch.Generator) -> list[int]:
    return torch.randperm(size, generator=generator).tolist()
