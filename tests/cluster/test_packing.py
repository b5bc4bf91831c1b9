"""How many nodes hold a run: by hand, and against the run's own check of the nodes that were counted."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf.bundles import check_fits, check_strategy
from rlhf.cluster.needs import Need, needs
from rlhf.cluster.packing import Nodes, nodes_for
from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.ppo.config import PPOConfig
from rlhf.roles import Resources, Strategy

MODEL = {"model": "m"}


def need(**roles: Resources) -> Need:
    return Need("ppo", roles)


@pytest.mark.parametrize(
    ("roles", "given", "nodes"),
    [
        ({}, {}, Nodes(1, 0, 1)),
        ({"a": Resources(ranks=2, cpus=1)}, {}, Nodes(1, 0, 3)),
        ({"a": Resources(ranks=40, cpus=1)}, {}, Nodes(2, 0, 32)),
        ({"a": Resources(ranks=6, cpus=2)}, {"cpus_per_node": 5}, Nodes(3, 0, 5)),
        ({"a": Resources(ranks=2, cpus=1, gpus=1)}, {}, Nodes(1, 2, 3)),
        ({"a": Resources(ranks=12, cpus=1, gpus=1)}, {}, Nodes(2, 8, 9)),
        ({"a": Resources(ranks=2, gpus=1)}, {"gpus_per_node": 8}, Nodes(1, 8, 3)),
        ({"a": Resources(ranks=1, gpus=0.6), "b": Resources(ranks=1, gpus=0.6)}, {}, Nodes(1, 2, 3)),
        ({"a": Resources(ranks=3, gpus=0.6)}, {"gpus_per_node": 1}, Nodes(3, 1, 2)),
        (
            {"policy": Resources(ranks=2, gpus=0.6), "reward": Resources(ranks=2, gpus=0.4, share="policy")}, {},
            Nodes(1, 2, 5),
        ),
        ({"a": Resources(ranks=2, gpus=1, strategy="STRICT_SPREAD")}, {}, Nodes(2, 2, 2)),
        ({"a": Resources(ranks=2, gpus=2), "b": Resources(gpus=1)}, {"gpus_per_node": 4}, Nodes(2, 4, 3)),
        ({"a": Resources(ranks=4, gpus=1, strategy="STRICT_PACK"), "b": Resources(ranks=2, gpus=1)},
         {"gpus_per_node": 4}, Nodes(2, 4, 5)),
        ({"a": Resources(cpus=0)}, {}, Nodes(1, 0, 1)),
    ],
)
def test_nodes_by_hand(roles: dict[str, Resources], given: dict[str, int], nodes: Nodes) -> None:
    """The core more on each node is for Ray's own processes."""
    assert nodes_for([need(**roles)], **given) == nodes


def test_stages_take_turns_and_the_largest_decides() -> None:
    train, sample = need(a=Resources(ranks=2, cpus=4, gpus=1)), need(b=Resources(ranks=3, cpus=1, gpus=1))
    assert nodes_for([train, sample]) == Nodes(1, 3, 9)


@pytest.mark.parametrize(
    ("roles", "given", "words"),
    [
        ({"a": Resources(gpus=4)}, {"gpus_per_node": 2}, "ppo: a needs 1 CPUs and 4 GPUs on one node, and a node has"),
        ({"a": Resources(cpus=8)}, {"cpus_per_node": 4}, "a needs 8 CPUs on one node, and a node has 3 CPUs and 0"),
        ({"a": Resources(ranks=4, gpus=1, strategy="STRICT_PACK")}, {"gpus_per_node": 2}, "a needs 4 CPUs and 4 GPUs"),
        ({"a": Resources(gpus=1)}, {"gpus_per_node": 0}, "--gpus-per-node 0: the config asks for 1 GPUs"),
    ],
)
def test_what_no_number_of_nodes_holds_is_a_sentence(roles: dict[str, Resources], given: dict, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        nodes_for([need(**roles)], **given)
    assert words in str(caught.value) and "; " in str(caught.value)


@given(
    st.lists(
        st.tuples(
            st.integers(1, 6), st.sampled_from([0, 0.3, 0.5, 1, 2]), st.sampled_from([0, 0.5, 1, 3]),
            st.sampled_from(Strategy.__args__),
        ),
        min_size=1, max_size=4,
    ),
    st.sampled_from([None, 2, 4, 8]),
)
@settings(max_examples=200, deadline=None)
def test_the_run_itself_finds_room(rows: list[tuple[int, float, float, Strategy]], gpus: int | None) -> None:
    """Any roles: the check that the run makes before it starts passes; and no fewer nodes than the sums need."""
    roles = {
        f"r{k}": Resources(ranks=ranks, gpus=each, cpus=cpus, strategy=strategy)
        for k, (ranks, each, cpus, strategy) in enumerate(rows)
    }
    wanted = need(**roles)
    try:
        nodes = nodes_for([wanted], gpus)
    except ConfigError:
        strict = [each for each in roles.values() if each.strategy == "STRICT_PACK"]
        assert strict or any(each.gpus > (gpus or 8) for each in roles.values())
        return
    check_fits(wanted.bundles, nodes.resources())
    for name, bundles in wanted.bundles.items():
        check_strategy(name, roles[name].strategy, bundles, nodes.resources())
    assert nodes.count >= math.ceil(wanted.total("GPU") / nodes.gpus - 1e-6) if nodes.gpus else nodes.count >= 1
    assert nodes.count * (nodes.cpus - 1) + 1e-6 >= wanted.total("CPU")


def test_needs_are_those_of_the_run() -> None:
    """A PPO run's roles with who shares; a stage of Ray Train its workers; a stage without Ray nothing."""
    raw = {"output": "o", "prompts": "p", "policy": MODEL, "critic": MODEL, "reference": MODEL, "reward": MODEL}
    raw["reference"] = {**MODEL, "resources": {"share": "policy", "cpus": 0.5}}
    config = validate(PPOConfig, raw)
    (found,) = needs([("ppo", config)])
    assert [bundle.cpus for bundle in found.bundles["policy"]] == [1.5]
    assert "reference" not in found.bundles and found.total("CPU") == 4.5
