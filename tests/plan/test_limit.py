"""The limit model gives the figures that were derived by hand, and behaves as physics does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.plan.hardware import GPUS, parse_cluster
from rlhf.plan.limit import Work, decode, score, train, transfer
from tests.plan import predicted
from tests.plan.published import H100, LLAMA_8B, PPO_ROWS, ROWS, Published, dense, table
from tests.plan.published_parts import PARTS, Tail, Transfer

# decode, prefill, score, train of the worked examples, seconds
WORKED = {
    "8B PPO, 8 H100": (12.8, 2.1, 17.6, 26.4),
    "8B PPO, 16 H100": (8.8, 1.1, 8.8, 13.2),
    "8B PPO, 8 H200": (8.9, 2.1, 17.6, 26.4),
    "70B PPO, 32 H100": (15.7, 4.7, 38.1, 57.1),
    "70B PPO, 64 H100": (13.3, 2.3, 19.0, 28.6),
    "70B PPO, 64 H200": (9.2, 2.3, 19.0, 28.6),
}
WITHIN = 0.05


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_limits_and_attainable_times_are_reproduced(row: Published) -> None:
    limit, attainable, _ = row.ours()
    assert limit == pytest.approx(row.limit, rel=WITHIN)
    assert attainable == pytest.approx(row.attainable, rel=WITHIN)


@pytest.mark.parametrize("row", [row for row in ROWS if row.name in WORKED], ids=lambda row: row.name)
def test_every_phase_of_the_worked_examples_is_reproduced(row: Published) -> None:
    assert row.parts(row.gpu) == pytest.approx(WORKED[row.name], rel=WITHIN)


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.name)
def test_the_limit_of_a_part_is_reproduced_and_nothing_published_beats_it(part: Tail | Transfer) -> None:
    """However many GPUs share the rest, one response takes a step per token; weights take bytes over bandwidth."""
    limit, expected = part.ours()
    assert limit == pytest.approx(part.limit, rel=WITHIN)
    assert limit < expected and limit < part.seconds


def test_the_longest_response_bounds_a_rollout() -> None:
    """The tail of NeMo-RL's 8B rows."""
    work = Work(sequences=1, prompt=1, response=1, longest=4096)
    assert decode(dense(8.03, 32, 4096, 1024), work, H100, 10_000, 1) == pytest.approx(19.6, rel=WITHIN)


@pytest.mark.parametrize(
    ("billions", "rate", "seconds"),
    [(8.03, 400e9, 0.04), (70.6, 400e9, 0.35), (405, 400e9, 2), (8.03, 50e9, 0.32), (70.6, 50e9, 2.8), (405, 50e9, 16)],
)
def test_weight_sync_is_bytes_over_bandwidth(billions: float, rate: float, seconds: float) -> None:
    assert transfer(2e9 * billions, rate) == pytest.approx(seconds, rel=WITHIN)


def test_published_runs_are_slower_than_the_limit_and_near_what_is_expected() -> None:
    """No published time beats the limit; the median one takes what the planner expects of a system, give or take."""
    ratios = sorted(row.seconds / row.ours()[2] for row in ROWS if row.seconds)
    assert all(row.seconds > row.ours()[0] for row in ROWS if row.seconds)
    assert 0.8 < ratios[len(ratios) // 2] < 1.25
    assert len(table()) == len(ROWS) + 2


@pytest.mark.parametrize("row", predicted.ROWS, ids=lambda row: row.name)
def test_what_rlhf_plan_prints_is_near_what_was_published(row: predicted.Predicted) -> None:
    """Within a factor of four, layouts of this platform being others than those that were measured; and no published
    time beats the limit of the work itself."""
    iteration = row.layout().plan.iteration
    assert iteration is not None
    phases = {phase.name: phase for phase in iteration.phases}
    assert {"rollout", "score", "update", "publish"} <= phases.keys()
    assert 1 / 4 < row.seconds / iteration.total("expected") < 4


def test_a_published_row_is_planned_for_the_work_that_it_had() -> None:
    """Two rows of one run are one config; the same sizes as in the hand-made rows."""
    by_name = {row.name: row for row in ROWS}
    for row in predicted.ROWS:
        hand, config = by_name[row.name], row.config()
        assert config.responses_per_step == hand.work.sequences
        assert 2 * row.model.parameters == pytest.approx(hand.model.weights, rel=0.01)
        assert parse_cluster(row.cluster).gpus == hand.gpus and row.seconds == hand.seconds


sequences = st.integers(1, 4096)
tokens = st.integers(1, 8192)


@given(sequences, tokens, tokens, st.integers(0, 6))
def test_more_gpus_never_take_longer(rows: int, prompt: int, response: int, doublings: int) -> None:
    work, gpus = Work(rows, prompt, response, response), 2**doublings
    for seconds in (lambda n: decode(LLAMA_8B, work, H100, n, 1), lambda n: score(LLAMA_8B, work, H100, n)):
        assert seconds(2 * gpus) <= seconds(gpus)


@given(sequences, tokens, tokens)
def test_longer_responses_never_take_less(rows: int, prompt: int, response: int) -> None:
    short, long = (Work(rows, prompt, length, length) for length in (response, response + 1))
    assert decode(LLAMA_8B, short, H100, 8, 1) < decode(LLAMA_8B, long, H100, 8, 1)
    assert train(LLAMA_8B, short, H100, 8) < train(LLAMA_8B, long, H100, 8)


@given(st.integers(1, 512))
def test_sequences_that_wait_for_room_take_longer(at_once: int) -> None:
    free = decode(LLAMA_8B, PPO_ROWS, H100, 8, 1)
    assert decode(LLAMA_8B, PPO_ROWS, H100, 8, 1, at_once) >= free * (1 - 1e-9)


def test_recomputation_costs_a_third_and_adapters_save_one() -> None:
    plain = train(LLAMA_8B, PPO_ROWS, H100, 8)
    assert train(LLAMA_8B, PPO_ROWS, H100, 8, recompute=True) == pytest.approx(plain * 4 / 3)
    assert train(LLAMA_8B, PPO_ROWS, H100, 8, frozen=True) == pytest.approx(plain * 2 / 3)


def test_a_faster_gpu_is_never_slower() -> None:
    for gpu in GPUS.values():
        better = replace(gpu, flops=2 * gpu.flops, bandwidth=2 * gpu.bandwidth)
        assert decode(LLAMA_8B, PPO_ROWS, better, 8, 1) < decode(LLAMA_8B, PPO_ROWS, gpu, 8, 1)
