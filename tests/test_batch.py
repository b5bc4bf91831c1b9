"""Rollouts and experiences: checked on construction; select, concatenate and scatter_rows lose nothing."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batch import Experience, Rollout, concatenate, from_completions, scatter_rows, select
from rlhf.partition import balance

PAD = 0
rows_of_tokens = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 8), st.booleans()), min_size=1, max_size=8)


def rollout(rows: list[tuple[int, int, bool]], version: int = 0) -> Rollout:
    """Rows of (prompt length, response length, finished) with tokens that name their row and place."""
    prompts = [[1000 * k + i + 1 for i in range(prompt)] for k, (prompt, _, _) in enumerate(rows)]
    completions = [[1000 * k + 500 + i for i in range(response)] for k, (_, response, _) in enumerate(rows)]
    logprobs = [[-(k + 1) - i / 100 for i in range(response)] for k, (_, response, _) in enumerate(rows)]
    return from_completions(prompts, completions, logprobs, [finished for *_, finished in rows], PAD, version)


def content(batch: Rollout) -> list[tuple]:
    """Each row as plain values, without padding."""
    return [
        (
            batch.tokens[k][batch.attention_mask[k]].tolist(), batch.tokens[k][batch.response_mask[k]].tolist(),
            batch.sampler_logprobs[k][batch.response_mask[k]].tolist(), bool(batch.finished[k]),
        )
        for k in range(len(batch))
    ]


def test_layout_of_completions() -> None:
    made = from_completions([[5, 6], [7]], [[8], [9, 10, 11]], [[-0.5], [-1.0, -2.0, -3.0]], [True, False], PAD, 4)
    assert made.tokens.tolist() == [[5, 6, 8, 0], [7, 9, 10, 11]]
    assert made.attention_mask.tolist() == [[True, True, True, False], [True] * 4]
    assert made.response_mask.tolist() == [[False, False, True, False], [False, True, True, True]]
    assert made.sampler_logprobs.tolist() == [[0, 0, -0.5, 0], [0, -1.0, -2.0, -3.0]]
    assert (made.finished.tolist(), made.policy_version, made.lengths()) == ([True, False], 4, [3, 4])


@given(rows_of_tokens, st.data())
def test_select_takes_the_rows_in_the_order_given_and_cuts_unused_columns(rows, data) -> None:
    whole = rollout(rows)
    chosen = data.draw(st.lists(st.sampled_from(range(len(rows))), min_size=1, max_size=8))
    part = select(whole, chosen)
    assert content(part) == [content(whole)[row] for row in chosen]
    assert part.tokens.shape[1] == max(sum(rows[row][:2]) for row in chosen)


@given(rows_of_tokens, st.data())
def test_splitting_and_concatenating_gives_the_rows_back(rows, data) -> None:
    whole = rollout(rows)
    edges = sorted(data.draw(st.sets(st.integers(1, len(rows)))) | {0, len(rows)})
    shards = [select(whole, range(a, b)) for a, b in pairwise(edges)]
    joined = concatenate(shards, PAD)
    for field in dataclasses.fields(whole):
        got, wanted = getattr(joined, field.name), getattr(whole, field.name)
        assert got == wanted if isinstance(wanted, int) else torch.equal(got, wanted)


@given(rows_of_tokens, st.integers(1, 5))
def test_what_the_ranks_computed_comes_back_in_place(rows, ranks: int) -> None:
    """Each rank answers for its own rows at its own width, some ranks with no rows at all."""
    whole = rollout(rows)
    parts = balance(whole.lengths(), ranks)
    shards = [select(whole, part) if part else None for part in parts]
    wide = [s.sampler_logprobs if s else torch.zeros(0, 1) for s in shards]
    assert torch.equal(scatter_rows(wide, parts, whole.tokens.shape[1]), whole.sampler_logprobs)
    scores = [torch.tensor([float(row) for row in part]) for part in parts]
    assert scatter_rows(scores, parts, whole.tokens.shape[1]).tolist() == [float(k) for k in range(len(rows))]


@pytest.mark.parametrize("finished", [True, False])
def test_prompt_and_response_of_one_token(finished: bool) -> None:
    made = rollout([(1, 1, finished)] * 3)
    assert made.tokens.shape == (3, 2)
    assert content(concatenate([select(made, [2]), select(made, [0, 1])], PAD)) == [content(made)[k] for k in (2, 0, 1)]


def test_rollouts_of_different_policies_do_not_mix() -> None:
    with pytest.raises(ValueError, match=r"different policy versions \[1, 2\]"):
        concatenate([rollout([(1, 1, True)], 1), rollout([(1, 1, True)], 2)], PAD)


@pytest.mark.parametrize(
    ("name", "wrong", "message"),
    [
        ("tokens", lambda t: t.int(), r"Rollout.tokens: \[1, 3\] torch.int32, expected \[1, 3\] torch.int64"),
        ("response_mask", lambda t: t.long(), "Rollout.response_mask"),
        ("sampler_logprobs", lambda t: t[:, :2], r"\[1, 2\] torch.float32, expected \[1, 3\]"),
        ("sampler_logprobs", lambda t: t.double(), "Rollout.sampler_logprobs"),
        ("finished", lambda t: t[:, None], "Rollout.finished"),
        ("attention_mask", lambda t: torch.zeros_like(t), "a response token lies outside the attention mask"),
    ],
)
def test_wrong_shapes_and_types_are_refused(name: str, wrong, message: str) -> None:
    made = rollout([(1, 2, True)])
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made, **{name: wrong(getattr(made, name))})


def test_an_experience_is_checked_too() -> None:
    made = rollout([(1, 2, True)])
    numbers = {name: torch.zeros(1, 3) for name in (
        "old_logprobs", "ref_logprobs", "values", "rewards", "advantages", "returns", "weights")}
    masks = {"attention_mask": made.attention_mask, "response_mask": made.response_mask}
    assert len(Experience(tokens=made.tokens, **masks, **numbers)) == 1
    with pytest.raises(ValueError, match=r"Experience.returns"):
        Experience(tokens=made.tokens, **masks, **{**numbers, "returns": torch.zeros(1, 2)})
