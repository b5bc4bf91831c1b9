"""Validation adds sums, so it does not depend on batches or ranks."""

import math
from types import SimpleNamespace

import pytest
import torch

from rlhf.training.evaluation import SummedEvaluation, language_model_metrics, language_model_sums


class Evaluation(SummedEvaluation):
    """The mixin on the little that it needs of a trainer; an example is a number, its loss the number itself."""

    def __init__(self, size, ranks, rank):
        self.args = SimpleNamespace(
            per_device_eval_batch_size=size, world_size=ranks, process_index=rank, device=torch.device("cpu")
        )
        self.data_collator = torch.tensor
        self.calls = 0

    def _prepare_inputs(self, batch):
        return batch

    def eval_sums(self, model, batch):
        self.calls += 1
        return torch.tensor([float(batch.sum()), len(batch), float((batch > 2).sum())], dtype=torch.float64)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_sums_are_the_same_however_examples_fall(size, ranks):
    examples = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]
    parts = [Evaluation(size, ranks, rank) for rank in range(ranks)]
    total = sum(part._group_sums(None, examples) for part in parts)
    assert total.tolist() == [28.0, 7.0, 5.0]
    assert len({part.calls for part in parts}) == 1, "with ZeRO-3 all ranks must run equally often"


def test_language_model_sums_count_predicted_tokens():
    """Two tokens are predicted; a model of uniform probability over 5 has ln 5 nats on each."""
    labels = torch.tensor([[7, -100, 2, 3]])
    model = lambda **_: SimpleNamespace(loss=torch.tensor(math.log(5)))  # noqa: E731
    sums = language_model_sums(model, {"labels": labels})
    assert sums.tolist() == pytest.approx([2 * math.log(5), 2, 0])
    assert language_model_metrics(sums) == pytest.approx({"loss": math.log(5), "perplexity": 5.0})
