"""Times of a PPO step by phase: what shares GPUs takes turns, and what a config turns off costs nothing."""

from __future__ import annotations

import pytest

from rlhf.plan.hardware import parse_cluster
from rlhf.plan.layouts import layouts
from rlhf.plan.phases import Iteration
from rlhf.plan.plans import Means, plan_ppo
from rlhf.plan.sizes import Sizes
from rlhf.plan.variants import changed
from tests.plan.ppo_configs import APART, SHARED, ppo

H100 = "2x8xH100-80"
LOOPS = {"asynchronous": {"kind": "asynchronous"}, "rollouts_only": {"kind": "rollouts_only"},
         "replay": {"kind": "replay", "rollouts": "saved"}}
TIS = {"ppo": {"correction": {"kind": "token_tis"}}}


def iteration(*overlays: dict, cluster: str = H100, means: Means = Means(512, 512)) -> Iteration:  # noqa: B008
    found = plan_ppo(ppo(*overlays), parse_cluster(cluster), Sizes(), means).iteration
    assert found is not None
    return found


def seconds(name: str, *overlays: dict, cluster: str = H100) -> float:
    return next(phase.expected for phase in iteration(*overlays, cluster=cluster).phases if phase.name == name)


def test_a_synchronous_step_is_the_sum_and_an_asynchronous_one_the_longer_side() -> None:
    whole = iteration(APART)
    assert whole.total("expected") == pytest.approx(sum(phase.expected for phase in whole.phases))
    rollout = seconds("rollout", APART)
    overlapped = iteration(APART, TIS, {"loop": LOOPS["asynchronous"]}).total("expected")
    assert overlapped == pytest.approx(max(rollout, whole.total("expected") - rollout))


def test_every_phase_is_at_its_limit_or_above() -> None:
    for phase in iteration(SHARED).phases:
        assert 0 <= phase.limit <= phase.attainable <= phase.expected


@pytest.mark.parametrize(
    ("loop", "phases"),
    [("rollouts_only", {"rollout", "score"}), ("replay", {"score", "update", "checkpoint"})],
)
def test_loops_without_a_side_have_no_such_phase(loop: str, phases: set[str]) -> None:
    assert {phase.name for phase in iteration(APART, {"loop": LOOPS[loop]}).phases} == phases


def test_more_gpus_for_a_role_make_its_phase_shorter() -> None:
    engines = {"rollout": {"resources": {"ranks": 4}}}
    learners = {name: {"resources": {"ranks": 4}} for name in ("policy", "critic")}
    assert seconds("rollout", APART, engines) < seconds("rollout", APART)
    assert seconds("update", APART, learners) < seconds("update", APART)


def test_epochs_multiply_the_update_and_minibatches_only_its_steps() -> None:
    once, twice, parts = (seconds("update", APART, {"ppo": ppo_}) for ppo_ in ({}, {"epochs": 2}, {"minibatches": 4}))
    assert twice == pytest.approx(2 * once)
    assert once < parts < 1.1 * once


def test_a_graph_that_waits_for_the_update_spares_the_learners_a_pass() -> None:
    """Without frozen models on other GPUs in the way: policy and critic are what scores longest."""
    frozen = {name: {"resources": {"ranks": 4}} for name in ("reference", "reward")}
    kept = {name: {"graph_tokens": 10**6, "zero": {"stage": 2}} for name in ("policy", "critic")}
    split = {name: {"zero": {"stage": 2}} for name in ("policy", "critic")}
    assert seconds("score", APART, frozen, kept) < seconds("score", APART, frozen, split)


def test_zero_3_between_nodes_waits_for_the_network() -> None:
    """Sixteen ranks on sixteen nodes with one adapter each, against two nodes of eight."""
    wide = {"policy": {"resources": {"ranks": 16}, "micro_batch_tokens": 2048}}
    apart, near = (seconds("update", APART, wide, cluster=cluster) for cluster in ("32x1xH100-80", "4x8xH100-80"))
    assert apart > near


def test_offloading_is_slower() -> None:
    there = {"policy": {"zero": {"offload_optimizer": True}}}
    assert seconds("update", APART, there) > seconds("update", APART)


def test_a_phase_near_the_deadline_is_told() -> None:
    slow = plan_ppo(ppo(APART, {"deadline_s": 10.0}), parse_cluster(H100), Sizes()).fit.warnings
    assert any(each.startswith("the phase rollout is expected to take") for each in slow)


@pytest.mark.parametrize("overlay", [APART, SHARED, {"critic": None, "ppo": {"advantage": {"kind": "reinforce_pp"}}}])
def test_every_layout_that_is_proposed_is_valid_fits_and_is_ordered(overlay: dict) -> None:
    config, cluster = ppo(APART, overlay), parse_cluster(H100)
    found = list(layouts(config, cluster, Sizes()))
    assert found
    for layout in found:
        there = changed(config, layout.change)
        assert there is not None
        again = plan_ppo(there, cluster, Sizes())
        assert again.fit.fits and sum(device.count for device in again.fit.devices) <= cluster.gpus
    shown = [round(layout.seconds, 1) for layout in found]
    assert shown == sorted(shown)


def test_no_layout_puts_a_wide_engine_over_nodes() -> None:
    found = list(layouts(ppo(APART), parse_cluster("4x2xH200-141"), Sizes()))
    assert found and not any("4 GPUs each" in layout.change.words for layout in found)


def test_no_layout_leaves_gpus_to_a_reward_model_where_there_is_none() -> None:
    """The reward is a rule: every GPU of a layout has a role."""
    rule = {"model": None, "resources": {"gpus": 0}, "parts": {"answer": {"kind": "number_match"}}}
    grpo = {"critic": None, "ppo": {"advantage": {"kind": "grpo"}}, "rollout": {"responses_per_prompt": 8}}
    cluster = parse_cluster(H100)
    found = list(layouts(ppo(APART, grpo, {"reward": rule}), cluster, Sizes()))
    assert len(found) > 2
    for layout in found:
        assert "reward" not in layout.change.words
        assert sum(device.count for device in layout.plan.fit.devices) == cluster.gpus
