"""Runs whose processes die or hang by a seed end with the numbers of runs in which nobody does."""

from __future__ import annotations

import threading

from tests.chaos.simulation import Tally, check


def test_whoever_dies_or_hangs_when_the_numbers_are_the_same() -> None:
    """`make chaos` takes 10,000 seeds."""
    threads = {*threading.enumerate()}
    tallies = [check(seed) for seed in range(150)]
    whole = sum(tallies, Tally())
    assert whole.attempts > 350 and max(tally.attempts for tally in tallies) >= 8  # so often somebody was lost
    assert whole.hangs > 50 and whole.diagnoses > 100, whole
    assert {*threading.enumerate()} <= threads


def test_a_seed_is_the_same_run_every_time() -> None:
    """To the second of the fake clock: one that fails can be looked into."""
    assert [check(seed) for seed in range(12)] == [check(seed) for seed in range(12)]
