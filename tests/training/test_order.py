"""The order of examples follows from seed and epoch alone."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from datasets import Dataset

from rlhf.training.arguments import training_arguments
from rlhf.training.config import TrainingConfig
from rlhf.training.examples import LENGTH
from rlhf.training.order import EpochOrder, SeededOrder, by_length, shuffled

LENGTHS = [(7 * i) % 41 + 1 for i in range(96)]


def orders(order, seed, epochs):
    """One per epoch, the process's own generator disturbed between them."""
    at = [0]
    sampler = EpochOrder(len(LENGTHS), order, seed, lambda: at[0])
    found = {}
    for at[0] in epochs:
        torch.rand(at[0] + 3)
        found[at[0]] = list(sampler)
    return found


def test_a_later_epoch_has_the_same_order_whatever_went_before():
    for order in (partial(by_length, LENGTHS, 8), partial(shuffled, len(LENGTHS))):
        whole, resumed = orders(order, 3, range(4)), orders(order, 3, [2, 3])
        assert resumed == {2: whole[2], 3: whole[3]}
        assert whole[0] != whole[1] and whole[1] != whole[2]
        assert whole[0] != orders(order, 4_000, [0])[0]
        assert all(sorted(each) == list(range(96)) for each in whole.values())


@pytest.mark.parametrize("grouped", [True, False])
def test_a_trainer_orders_as_its_config_says(grouped):
    """The config's key, in the words of transformers' arguments, chooses the order."""
    config = TrainingConfig(learning_rate=1e-3, batch_size=8, micro_batch_size=4, eval_every=1, group_by_length=grouped)
    trainer = SeededOrder()
    trainer.args = SimpleNamespace(train_batch_size=4, **training_arguments(config, 10, 5, "scratch"))
    trainer.state, trainer.train_dataset = SimpleNamespace(epoch=2.5), Dataset.from_dict({LENGTH: LENGTHS})
    order = partial(by_length, LENGTHS, 8) if grouped else partial(shuffled, len(LENGTHS))
    assert list(trainer._get_train_sampler()) == orders(order, 5, [2])[2]


def test_batches_by_length_hold_like_lengths():
    grouped = orders(partial(by_length, LENGTHS, 8), 0, [0])[0]
    plain = orders(partial(shuffled, len(LENGTHS)), 0, [0])[0]
    assert padding(grouped) < 0.5 * padding(plain)


def padding(indices):
    batches = [[LENGTHS[i] for i in indices[start : start + 8]] for start in range(0, len(indices), 8)]
    return sum(max(batch) * len(batch) - sum(batch) for batch in batches)


def test_the_shuffle_is_that_of_a_seeded_random_sampler():
    """accelerate's, which transformers uses: figures of runs without grouping stay what they were."""
    from accelerate.data_loader import SeedableRandomSampler

    theirs = SeedableRandomSampler(range(96), data_seed=5)
    theirs.set_epoch(2)
    assert orders(partial(shuffled, 96), 5, [2])[2] == list(theirs)
