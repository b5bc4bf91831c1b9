"""Runs whose processes die by a seed end with the numbers of runs in which nobody dies."""

from __future__ import annotations

import threading

from tests.chaos.simulation import check


def test_whoever_dies_when_the_numbers_are_the_same() -> None:
    """`make chaos` takes 10,000 seeds."""
    threads = threading.active_count()
    attempts = [check(seed) for seed in range(150)]
    assert sum(attempts) > 350 and max(attempts) >= 8  # so often somebody died
    assert threading.active_count() == threads
