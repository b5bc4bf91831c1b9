"""What to change first: how much is looked at until it is found, and that it is enough."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import load
from rlhf.plan import layouts, plans, refusal, variants
from rlhf.plan.hardware import parse_cluster
from rlhf.plan.refusal import LoadableSizes
from rlhf.plan.remedies import remedy
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig
from tests.plan.ppo_configs import APART, ppo

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


def of(name: str) -> PPOConfig:
    return load(PPOConfig, [CONFIGS / "gpu" / f"{name}.yaml"])


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often memory was planned, how often times, too, and how often a config was validated."""
    count: Counter[str] = Counter()

    def watch(module: Any, name: str, what: str) -> None:
        function = getattr(module, name)

        def counting(*given: Any) -> Any:
            count[what] += 1
            return function(*given)

        monkeypatch.setattr(module, name, counting)

    for module in (layouts, plans):
        watch(module, "fit", "fits")
    watch(layouts, "plan_ppo", "plans")
    watch(variants, "validate", "validations")
    return count


@pytest.mark.parametrize(
    ("name", "cluster", "words"),
    [
        ("ppo_llama3_70b_16nodes", "4x8xL4-24", "the models, or the kind of GPU: no layout that was tried fits 64 nod"),
        ("ppo_llama3_70b_16nodes", "4x8xH100-80", "the layout: policy 16, critic + reference + reward 8, engines 8"),
        ("ppo_qwen2_32b_4nodes", "4x8xA100-40", "reference.divided: true, and the layout: policy 16, critic"),
        ("ppo_qwen2_32b_4nodes", "1x8xA100-40", "the cluster: 2 nodes of 8 x A100-40 GiB would do, with reference"),
    ],
)
def test_the_search_of_a_large_config_is_short(name: str, cluster: str, words: str, counted: Counter[str]) -> None:
    """Nothing in the whole search was 8400 plans with as many validations, and took half a minute."""
    assert remedy(of(name), parse_cluster(cluster), Sizes()).startswith(words)
    assert counted["fits"] < 4000
    assert counted["plans"] < 700
    assert counted["validations"] < 60


def test_a_refused_run_reads_each_model_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """`rlhf ppo` looks for the same remedy while it holds its cluster."""
    read: list[str] = []

    def loaded(self: LoadableSizes, value: str, key: str) -> Any:
        read.append(value)
        return Sizes().of(value, key)

    monkeypatch.setattr(refusal.LoadableSizes, "_loaded", loaded)
    config = of("ppo_llama3_70b_16nodes")
    remedy(config, parse_cluster("4x8xH100-80"), LoadableSizes())
    assert sorted(read) == sorted({config.policy.model, config.critic.model if config.critic else ""})


def test_a_layout_that_is_proposed_is_valid_and_is_what_was_planned() -> None:
    """Layouts are planned on configs that nobody has validated."""
    config, cluster = of("ppo_llama3_8b_8gpu_shared"), parse_cluster("1x8xH100-80")
    found = list(layouts.layouts(config, cluster, Sizes()))
    assert len(found) > 3
    for each in found:
        there = variants.changed(config, each.change)
        assert there is not None
        assert plans.plan_ppo(there, cluster, Sizes()).fit == each.plan.fit


def test_a_config_for_more_nodes_is_left_as_it_is() -> None:
    """The file itself may fit a larger cluster; a loop without engines has no layouts at all."""
    alone = ppo(APART, {"loop": {"kind": "replay", "rollouts": "rollouts"}, "policy": {"resources": {"ranks": 12}}})
    found = remedy(alone, parse_cluster("1x8xH100-80"), Sizes())
    assert found == "the cluster: 2 nodes of 8 x H100-80 GiB would do, with this config as it is"


def test_a_config_with_gpus_wants_a_cluster_with_gpus() -> None:
    assert remedy(ppo(APART), parse_cluster("1xCPU-64"), Sizes()).startswith("the cluster: name one with GPUs")
    assert remedy(ppo(), parse_cluster("1xCPU-4"), Sizes()) == "smaller models, or nodes with more memory"
