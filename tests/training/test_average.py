"""The moving average of weights: its numbers, what it leaves alone, and that it survives."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rlhf.training.average import WeightAverage


def moved(decay: float) -> tuple[nn.Linear, WeightAverage]:
    """A layer whose weights went from 1 over 3 to 5; its bias is not trained."""
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
        layer.bias.fill_(7.0)
    average = WeightAverage(layer, decay)
    for value in (3.0, 5.0):
        with torch.no_grad():
            layer.weight.fill_(value)
        average.update()
    return layer, average


def test_each_step_takes_its_share() -> None:
    layer, average = moved(0.75)
    with average.in_place():
        assert layer.weight.tolist() == [[0.75 * (0.75 * 1 + 0.25 * 3) + 0.25 * 5] * 2]
        assert layer.bias.tolist() == [7.0]
    assert layer.weight.tolist() == [[5.0, 5.0]]


def test_the_own_weights_come_back_after_an_error() -> None:
    layer, average = moved(0.5)
    try:
        with average.in_place():
            raise RuntimeError
    except RuntimeError:
        pass
    assert layer.weight.tolist() == [[5.0, 5.0]]


def test_an_average_goes_on_from_where_it_was_saved(tmp_path: Path) -> None:
    _, average = moved(0.75)
    average.save(tmp_path, rank=1)
    layer, other = moved(0.5)
    other.load(tmp_path, rank=1)
    with other.in_place():
        assert layer.weight.tolist() == [[2.375, 2.375]]


def test_small_steps_of_bfloat16_weights_are_not_lost() -> None:
    layer = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    average = WeightAverage(layer, 0.999)
    with torch.no_grad():
        layer.weight.fill_(2.0)
    for _ in range(100):
        average.update()
    kept = average._values["weight"]
    assert kept.dtype == torch.float32 and abs(float(kept) - (2 - 0.999**100)) < 1e-5
