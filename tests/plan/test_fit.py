"""Roles on devices: who meets whom, what that takes, and that no saving makes a device fuller."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.plan.demands import demands, lengths
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import GIB, GPUS, parse_cluster
from rlhf.plan.models import require
from rlhf.plan.places import devices
from rlhf.plan.plans import Means, plan_ppo
from rlhf.plan.sizes import Sizes
from tests.plan.ppo_configs import APART, SHARED, ppo

H100 = parse_cluster("1x8xH100-80")
LLAMA = require("Llama-3-8B", "model")


def peaks(*overlays: dict, cluster: str = "1x8xH100-80") -> dict[str, float]:
    """Bytes of the fullest moment, by the roles on a GPU."""
    found = plan_ppo(ppo(*overlays), parse_cluster(cluster), Sizes()).fit
    return {device.name: device.peak for device in found.devices}


def test_roles_apart_have_gpus_of_their_own() -> None:
    found = devices(demands(ppo(APART), Sizes()), GPUS["H100-80"])
    assert {device.name: device.count for device in found} == {
        "policy": 2, "critic": 2, "reference": 1, "reward": 1, "rollout": 2,
    }


def test_roles_that_share_meet_on_one_gpu() -> None:
    (device,) = devices(demands(ppo(SHARED), Sizes()), GPUS["H100-80"])
    assert device.name == "policy + critic + reference + reward + rollout"
    assert (device.count, device.times) == (8, 1)
    engine = next(each for each in device.holdings if each.sleeps)
    others = sum(each.memory.peak for each in device.holdings if not each.sleeps)
    assert device.training == pytest.approx(others + engine.memory.runtime)
    assert device.sampling < others + engine.memory.peak


def test_an_engine_spreads_over_its_gpus() -> None:
    wide = {"rollout": {"tensor_parallel": 4, "resources": {"ranks": 1, "gpus": 4}}}
    found = devices(demands(ppo(APART, wide), Sizes()), GPUS["H100-80"])
    engine = next(device for device in found if device.name == "rollout")
    assert engine.count == 4
    assert engine.holdings[0].memory.weights == pytest.approx(2 * LLAMA.parameters / 4)


def test_two_small_places_may_meet_on_one_gpu() -> None:
    """Ray puts two bundles of half a GPU on one: what they hold adds up."""
    half = {"reference": {"resources": {"gpus": 0.5, "ranks": 2}}}
    found = devices(demands(ppo(APART, half), Sizes()), GPUS["H100-80"])
    reference = next(device for device in found if device.name == "reference")
    assert (reference.count, reference.times) == (1, 2)
    assert reference.peak == pytest.approx(2 * reference.holdings[0].memory.peak)


def test_the_kv_cache_is_what_weights_and_workspace_leave() -> None:
    demand = next(each for each in demands(ppo(APART), Sizes()) if each.role == "rollout")
    assert isinstance(demand.model, Engine)
    memory = demand.on(GPUS["H100-80"])
    assert memory.weights + memory.kv_cache + demand.model.workspace == pytest.approx(0.85 * GPUS["H100-80"].memory)
    assert demand.model.cached_tokens(memory) == pytest.approx(memory.kv_cache / 131_072)


def test_too_few_gpus_and_too_little_memory_are_told() -> None:
    few = plan_ppo(ppo(APART), parse_cluster("1x4xH100-80"), Sizes()).fit
    assert "ask for 8 GPUs (policy 2, critic 2" in few.problems[0]
    small = plan_ppo(ppo(APART), parse_cluster("1x8xA100-40"), Sizes()).fit
    assert "the GPU of policy needs" in " ".join(small.problems)
    none = plan_ppo(ppo(APART), parse_cluster("1xCPU-64"), Sizes()).fit
    assert "reserve GPUs, and the cluster has none" in none.problems[0]


def test_an_engine_without_room_for_one_sequence_is_told() -> None:
    tight = plan_ppo(ppo(APART, {"rollout": {"gpu_memory_fraction": 0.2}}), H100, Sizes()).fit
    assert any("leaves no room for the KV cache of one sequence of 2048 tokens" in each for each in tight.problems)


def test_rows_are_as_long_as_the_config_allows() -> None:
    assert lengths(ppo(APART), LLAMA).row == 2048
    short = ppo(APART, {"rollout": {"max_prompt_tokens": 100}})
    assert (lengths(short, LLAMA).prompt, lengths(short, LLAMA).response) == (100, 1024)
    assert Means(50, 9999).within(lengths(short, LLAMA)).row == 50 + 1024


@given(st.integers(1, 7), st.integers(1, 7))
@settings(max_examples=30)
def test_more_ranks_of_a_learner_never_fill_a_gpu_more(here: int, more: int) -> None:
    few, many = ({"policy": {"resources": {"ranks": ranks}}} for ranks in (here, here + more))
    large = "4x8xH100-80"
    assert peaks(APART, many, cluster=large)["policy"] <= peaks(APART, few, cluster=large)["policy"]


@given(st.integers(1, 64), st.integers(1, 64))
@settings(max_examples=30)
def test_more_tokens_at_a_time_never_take_less(here: int, more: int) -> None:
    few, many = ({"policy": {"micro_batch_tokens": 2048 * count}} for count in (here, here + more))
    assert peaks(APART, few)["policy"] <= peaks(APART, many)["policy"]


@pytest.mark.parametrize(
    "saving",
    [
        {"policy": {"zero": {"offload_optimizer": True}}}, {"policy": {"lora": {"rank": 16}}},
        {"policy": {"frozen_layers": 16}}, {"policy": {"micro_batch_tokens": 2048}},
        {"rollout": {"max_model_len": 1024, "max_new_tokens": 512}, "policy": {"micro_batch_tokens": 1024}},
    ],
)
def test_a_saving_saves(saving: dict) -> None:
    assert peaks(APART, saving)["policy"] < peaks(APART)["policy"]


@pytest.mark.parametrize(
    "cost",
    [
        {"policy": {"gradient_checkpointing": False}}, {"policy": {"ema_decay": 0.99}},
        {"policy": {"zero": {"stage": 2}}}, {"policy": {"precision": "float32"}},
    ],
)
def test_a_cost_costs(cost: dict) -> None:
    assert peaks(APART, cost)["policy"] > peaks(APART)["policy"]


def test_learners_that_leave_make_room_for_engines() -> None:
    stays = {name: {"zero": {"stage": 2}} for name in ("policy", "critic")}
    leaves = {name: {"zero": {"stage": 2, "offload_during_rollout": True}} for name in ("policy", "critic")}
    (staying,), (leaving,) = (
        devices(demands(ppo(SHARED, overlay), Sizes()), GPUS["H200-141"]) for overlay in (stays, leaves)
    )
    assert leaving.training == staying.training
    moved = sum(each.memory.weights + each.memory.optimizer for each in leaving.holdings[:2])
    assert leaving.sampling == pytest.approx(staying.sampling - moved)
    assert moved > 20 * GIB
