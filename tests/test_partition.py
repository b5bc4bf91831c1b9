"""Rows on ranks and in micro-batches: every row exactly once, within the budget, in step on all ranks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.partition import balance, micro_batches, minibatches, plan

lengths_of_rows = st.lists(st.integers(1, 600), min_size=1, max_size=40)


@given(lengths_of_rows, st.integers(1, 6))
def test_balance_deals_every_row_once_and_within_one_row_of_even(lengths: list[int], ranks: int) -> None:
    parts = balance(lengths, ranks)
    assert len(parts) == ranks
    assert sorted(row for part in parts for row in part) == list(range(len(lengths)))
    assert all(part == sorted(part) for part in parts)
    totals = [sum(lengths[row] for row in part) for part in parts]
    assert max(totals) - min(totals) <= max(lengths)
    if len(lengths) >= ranks:
        assert all(parts)


@given(lengths_of_rows, st.integers(1, 4000), st.data())
def test_micro_batches_hold_every_row_once_within_the_budget(lengths: list[int], budget: int, data) -> None:
    rows = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True))
    batches = micro_batches(lengths, rows, budget)
    assert sorted(row for batch in batches for row in batch) == sorted(rows)
    assert all(batches)
    for batch in batches:
        padded = max(lengths[row] for row in batch) * len(batch)
        assert padded <= budget or len(batch) == 1


@given(lengths_of_rows, st.integers(1, 6), st.integers(1, 4000))
def test_all_ranks_run_the_same_number_of_micro_batches(lengths: list[int], ranks: int, budget: int) -> None:
    parts = balance(lengths, ranks)
    batches = plan(lengths, parts, budget)
    assert len({len(rank) for rank in batches}) == 1
    assert [sorted(row for batch in rank for row in batch) for rank in batches] == parts
    fewest = max(len(micro_batches(lengths, part, budget)) for part in parts)
    assert len(batches[0]) == fewest


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 1000))
def test_minibatches_deal_every_row_once_in_nearly_equal_parts(count: int, parts: int, seed: int) -> None:
    dealt = minibatches(count, parts, seed)
    assert sorted(row for part in dealt for row in part) == list(range(count))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert dealt == minibatches(count, parts, seed)


def test_minibatches_of_one_step_keep_the_order_and_other_seeds_shuffle_otherwise() -> None:
    assert minibatches(5, 1, 3) == [[0, 1, 2, 3, 4]]
    assert minibatches(20, 2, 0) != minibatches(20, 2, 1)


def test_a_row_longer_than_the_budget_stands_alone() -> None:
    assert micro_batches([50, 900, 60], [0, 1, 2], budget=200) == [[1], [2, 0]]


def test_padding_is_not_paid_for_where_a_further_pass_is_cheaper() -> None:
    """Ten rows of 100 tokens and ten of 10: in one batch nearly half would be padding."""
    lengths = [100] * 10 + [10] * 10
    assert [len(batch) for batch in micro_batches(lengths, range(20), 100_000)] == [12, 8]
    assert len(micro_batches([100] * 20, range(20), 100_000)) == 1


@pytest.mark.parametrize("ranks", [1, 3])
def test_lengths_of_one_token(ranks: int) -> None:
    parts = balance([1] * 7, ranks)
    assert sum(map(len, parts)) == 7
    assert all(len(batch) <= 2 for rank in plan([1] * 7, parts, 2) for batch in rank)
