"""Model states: equal to DeepSpeed's own estimators, and monotone in everything that divides or offloads."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.plan.states import Counted, Zero, estimators, gathered, states

SIZES = {
    "124M": Counted(124_439_808, 124_439_808, 38_597_376),
    "7B": Counted(6_738_415_616, 6_738_415_616, 202_383_360),
    "8B": Counted(8_030_261_248, 8_030_261_248, 525_336_576),
    "70B": Counted(70_553_706_496, 70_553_706_496, 1_050_673_152),
}
NODES = (1, 2, 16)
GPUS = (1, 4, 8)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("offload", [False, True])
def test_stage_2_is_what_deepspeed_estimates(size: str, offload: bool) -> None:
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    counted = SIZES[size]
    for nodes in NODES:
        for gpus in GPUS:
            theirs = estimate_zero2_model_states_mem_needs(counted.total, gpus, nodes, offload, 1.0)
            ours = estimators(counted, Zero(2, nodes * gpus, offload), nodes)
            assert ours == pytest.approx(theirs, abs=2)  # they round to bytes


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("offload", "parameters"), [(False, False), (True, False), (True, True)])
def test_stage_3_is_what_deepspeed_estimates(size: str, offload: bool, parameters: bool) -> None:
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs

    counted = SIZES[size]
    for nodes in NODES:
        for gpus in GPUS:
            host, gpu, _ = estimate_zero3_model_states_mem_needs(
                counted.total, counted.largest, gpus, nodes, offload, parameters, True, 1.0
            )
            ours = estimators(counted, Zero(3, nodes * gpus, offload, parameters), nodes)
            assert ours == pytest.approx((host, gpu), abs=2)


stages, ranks, widths = st.sampled_from([0, 1, 2, 3]), st.integers(1, 1024), st.sampled_from([2, 4])
counts = st.integers(1_000_000, 100_000_000_000).map(lambda n: Counted(n, n, n // 50))


@given(counts, stages, ranks, widths)
def test_more_ranks_never_hold_more(counted: Counted, stage: int, count: int, width: int) -> None:
    here, there = (states(counted, Zero(stage, n), width, 4) for n in (count, count + 1))
    assert there.weights <= here.weights and there.gradients <= here.gradients and there.optimizer <= here.optimizer


@given(counts, ranks)
def test_a_higher_stage_never_holds_more(counted: Counted, count: int) -> None:
    """In bfloat16; in float32 DeepSpeed keeps masters beside the weights from stage 1 on."""
    held = [states(counted, Zero(stage, count), 2, 4).device for stage in (0, 1, 2, 3)]
    assert held == sorted(held, reverse=True)


@given(counts, st.sampled_from([1, 2, 3]), ranks, widths)
def test_offloading_moves_states_and_loses_none(counted: Counted, stage: int, count: int, width: int) -> None:
    plain = states(counted, Zero(stage, count), width, 4)
    moved = states(counted, Zero(stage, count, offload_optimizer=True), width, 4)
    assert moved.device < plain.device
    assert moved.host >= plain.optimizer - 1


@given(counts, stages, ranks, widths, st.floats(0.001, 1.0))
def test_what_is_not_trained_has_no_gradients(
    counted: Counted, stage: int, count: int, width: int, share: float
) -> None:
    part = Counted(counted.total, int(counted.total * share), counted.largest)
    whole, some = (states(each, Zero(stage, count), width, 4) for each in (counted, part))
    assert some.weights == whole.weights
    assert some.gradients <= whole.gradients and some.optimizer <= whole.optimizer


@given(counts, ranks)
def test_zero_3_gathers_no_more_than_the_model(counted: Counted, count: int) -> None:
    assert 0 < gathered(counted, Zero(3, count), 2) <= 2 * counted.total
    assert gathered(counted, Zero(2, count), 2) == 0
