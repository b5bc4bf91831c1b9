"""States that learners keep in the memory of their nodes: they must fit there, in a verdict, a remedy and a refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.config import load
from rlhf.errors import ResourceError
from rlhf.plan.demands import demands
from rlhf.plan.hardware import GIB, Cluster, parse_cluster
from rlhf.plan.hosts import offloaded, offloaded_of_a_node
from rlhf.plan.layouts import layouts
from rlhf.plan.models import require
from rlhf.plan.plans import plan_ppo, plan_training
from rlhf.plan.refusal import check_memory
from rlhf.plan.remedies import remedy
from rlhf.plan.sizes import Sizes
from rlhf.plan.training_jobs import TrainStage
from rlhf.plan.training_layouts import training_layouts
from rlhf.plan.training_remedies import training_remedy
from rlhf.plan.variants import changed, onto_the_gpu
from rlhf.ppo.config import PPOConfig
from rlhf.stages.sft import SftConfig
from tests.plan.ppo_configs import APART, SHARED, ppo

GPU_CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "gpu"
OPTIMIZER, PARAMETERS = "training.deepspeed.offload_optimizer=true", "training.deepspeed.offload_parameters=true"
LARGE, SMALL = "sft_llama3_70b_16nodes", "sft_llama3_8b_8gpu"


def job(name: str, *overrides: str) -> TrainStage:
    return TrainStage.of("sft", load(SftConfig, [GPU_CONFIGS / f"{name}.yaml"], overrides), Sizes())


def large_on_one_node() -> TrainStage:
    """70 billion parameters on eight GPUs: 16 bytes of each, and its weight, wait in the node's memory."""
    return job(LARGE, OPTIMIZER, PARAMETERS, "training.workers.count=8")


def shared() -> PPOConfig:
    """Two learners of 8 billion parameters whose optimizers are offloaded."""
    return load(PPOConfig, [GPU_CONFIGS / "ppo_llama3_8b_8gpu_shared.yaml"])


def test_a_node_without_room_for_offloaded_states_does_not_hold_the_job() -> None:
    states = 18 * require("Llama-3-70B", "model").parameters
    small, large = (plan_training(large_on_one_node(), parse_cluster(f"1x8xH100-80+{gib}")).fit for gib in (64, 2000))
    assert small.offloaded == large.offloaded == pytest.approx(states)
    assert small.problems == (
        "a node needs 1182.7 GiB of its own memory for offloaded states of worker, and has 63.0 beside Ray's own "
        "processes",
    )
    assert large.fits
    assert plan_training(large_on_one_node(), parse_cluster("1x8xH100-80")).fit.fits  # nobody knows what it has


def test_weights_alone_that_are_offloaded_are_in_host_memory() -> None:
    alone = plan_training(job(LARGE, PARAMETERS), parse_cluster("16x8xH100-80")).fit
    plain = plan_training(job(LARGE), parse_cluster("16x8xH100-80")).fit
    weights = 2 * require("Llama-3-70B", "model").parameters
    assert alone.offloaded == pytest.approx(weights / 16)
    assert plain.fullest - alone.fullest == pytest.approx(weights / 128)


def test_states_that_leave_while_engines_sample_are_in_host_memory() -> None:
    leaves = {name: {"zero": {"stage": 2, "offload_during_rollout": True}} for name in ("policy", "critic")}
    wanted = demands(ppo(SHARED, leaves), Sizes())
    # eight ranks with all weights, and 12 bytes of masters and moments that they share
    parameters = [require("Llama-3-8B", "model").parameters, require("Llama-3-8B", "model").scored().parameters]
    assert offloaded(wanted) == pytest.approx(sum(8 * 2 * count + 12 * count for count in parameters))


def test_the_fullest_node_has_the_gpus_that_offload_most() -> None:
    """Two GPUs of each learner; a node of three holds the policy whole and half of the critic."""
    offload = {name: {"zero": {"offload_optimizer": True}} for name in ("policy", "critic")}
    wanted = demands(ppo(APART, offload), Sizes())
    policy, critic = (next(each.offloaded for each in wanted if each.role == role) for role in ("policy", "critic"))
    assert policy > critic > 0
    assert offloaded_of_a_node(wanted, 3, 3) == pytest.approx(2 * policy + critic)
    assert offloaded_of_a_node(wanted, 1, 8) == pytest.approx(2 * policy + 2 * critic)
    assert offloaded_of_a_node(wanted, 2, 0) == pytest.approx(policy + critic)


def test_a_node_also_holds_the_processes_without_a_gpu() -> None:
    offload = {"policy": {"zero": {"offload_optimizer": True}}}
    on_cpus = {"reference": {"resources": {"gpus": 0}}}
    need = plan_ppo(ppo(APART, offload, on_cpus), parse_cluster("1x8xH100-80+2000"), Sizes()).fit
    reference = sum(held.memory.peak for held in need.on_hosts)
    tight = (need.offloaded + reference) / GIB + 1
    for gib, fits in ((tight + 1, True), (tight - 1, False)):
        there = replace(parse_cluster("1x8xH100-80"), node_memory=gib * GIB)
        found = plan_ppo(ppo(APART, offload, on_cpus), there, Sizes()).fit
        assert found.fits == fits, found.problems
    assert found.problems[0].startswith("the processes without a GPU and offloaded states need ")


@pytest.mark.parametrize(
    ("stage", "gib", "words"),
    [
        (job(SMALL, OPTIMIZER), 64, "training.deepspeed.offload_optimizer: false"),
        (job(SMALL, OPTIMIZER, PARAMETERS), 64,
         "training.deepspeed.offload_parameters: false, and training.deepspeed.offload_optimizer: false"),
        (job(SMALL, OPTIMIZER, PARAMETERS), 130, "training.deepspeed.offload_parameters: false"),
        (large_on_one_node(), 64, "the nodes: 1184 GiB of memory of their own would do"),
    ],
)
def test_what_to_change_first_in_a_training_job(stage: TrainStage, gib: int, words: str) -> None:
    there = parse_cluster(f"1x8xH100-80+{gib}")
    assert not plan_training(stage, there).fit.fits
    assert training_remedy(stage, there) == words


def test_nodes_with_the_memory_that_is_named_hold_the_job() -> None:
    assert plan_training(large_on_one_node(), parse_cluster("1x8xH100-80+1184")).fit.fits
    assert not plan_training(large_on_one_node(), parse_cluster("1x8xH100-80+1183")).fit.fits


def test_nothing_is_offloaded_as_a_remedy_where_the_host_has_no_room() -> None:
    """On GPUs of 24 GiB the optimizer on the host is what helps an 8B job, if the host has the room."""
    assert "offload_optimizer: true" in training_remedy(job(SMALL), parse_cluster("1x8xL4-24+500"))
    assert "offload" not in training_remedy(job(SMALL), parse_cluster("1x8xL4-24+64"))


def test_what_to_change_first_in_a_ppo_run() -> None:
    """On larger GPUs one optimizer has room there; on the GPUs that it is made for none has."""
    there = parse_cluster("1x8xB200-180+64")
    words = remedy(shared(), there, Sizes())
    assert words == "policy.zero.offload_optimizer: false, and critic.zero.offload_optimizer: false"
    back = changed(shared(), *onto_the_gpu(shared()))
    assert back is not None and plan_ppo(back, there, Sizes()).fit.fits
    assert remedy(shared(), parse_cluster("1x8xB200-180+180"), Sizes()) == "policy.zero.offload_optimizer: false"
    small = parse_cluster("1x8xH100-80+64")
    assert not plan_ppo(shared(), small, Sizes()).fit.fits
    assert "offload_optimizer: true" not in remedy(shared(), small, Sizes())


@pytest.mark.parametrize("gib", [64, 2000])
def test_layouts_offload_only_where_the_host_has_room(gib: int) -> None:
    there = parse_cluster(f"1x8xH100-80+{gib}")
    of_ppo = [each.change.words for each in layouts(shared(), there, Sizes())]
    of_training = [each.change.words for each in training_layouts(job(SMALL), there)]
    for words in (of_ppo, of_training):
        assert words
        assert any("on the host" in each for each in words) == (gib == 2000)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A config.json of the sizes of Llama-3-8B."""
    from transformers import LlamaConfig

    directory = tmp_path_factory.mktemp("models") / "large"
    LlamaConfig(
        vocab_size=128_256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14_336, max_position_embeddings=8192, tie_word_embeddings=False,
    ).save_pretrained(directory)
    return str(directory)


HOST = "weights, gradients and optimizer states of {} in host memory take {} GiB, and the machine has 64.0"


def test_a_run_whose_host_states_cannot_fit_is_refused(model: str) -> None:
    config: Any = load(SftConfig, [GPU_CONFIGS / f"{SMALL}.yaml"], [f"model={model}", OPTIMIZER])
    known, unknown = parse_cluster("1x8xH100-80+64"), Cluster(1, 0, None, 64 * GIB)
    with pytest.raises(ResourceError) as refusal:
        check_memory("sft", config, known)
    assert str(refusal.value).startswith(
        HOST.format("worker", 119.7) + "; first thing to change: training.deepspeed.offload_optimizer: false"
    )
    with pytest.raises(ResourceError, match="first thing to change: states stay on the GPUs"):
        check_memory("sft", config, unknown)  # Ray does not say what kind its GPUs are
    assert check_memory("sft", config, parse_cluster("1x8xH100-80+128")) == []
    assert check_memory("sft", config, parse_cluster("2x8xH100-80")) == []


def test_a_ppo_run_is_refused_alike(model: str) -> None:
    models = [f"{role}.model={model}" for role in ("policy", "reference")]
    config = load(PPOConfig, [GPU_CONFIGS / "ppo_llama3_8b_8gpu_shared.yaml"],
                  [*models, f"critic.model={model}", f"reward.model={model}"])
    with pytest.raises(ResourceError, match=r"of policy and critic in host memory take 2\d\d\.\d GiB"):
        check_memory("ppo", config, parse_cluster("1x8xH100-80+64"))
    assert check_memory("ppo", config, parse_cluster("1x8xH100-80+512")) == []
