"""A run is refused before its actors start when model states alone cannot fit, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.config import validate
from rlhf.errors import ResourceError
from rlhf.plan.hardware import GIB, GPUS, Cluster, parse_cluster
from rlhf.plan.ray_cluster import cluster_of, largest
from rlhf.plan.refusal import check_memory
from rlhf.ppo.config import PPOConfig

ON_ONE = {"policy": 0.4, "critic": 0.2, "reference": 0.1, "reward": 0.1, "rollout": 0.2}


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config.json of the sizes of Llama-3-8B: no weights are needed to refuse it."""
    from transformers import LlamaConfig

    directory = tmp_path_factory.mktemp("models") / "large"
    LlamaConfig(
        vocab_size=128_256, hidden_size=4096, num_hidden_layers=32, num_attention_heads=32, num_key_value_heads=8,
        intermediate_size=14_336, max_position_embeddings=8192, tie_word_embeddings=False,
    ).save_pretrained(directory)
    return directory


def config_of(model: Path, gpus: bool = False) -> PPOConfig:
    """Every role on this model: on CPUs, or all on one GPU in bfloat16."""
    roles: dict[str, Any] = {name: {"model": str(model)} for name in ("policy", "critic", "reference", "reward")}
    roles["rollout"] = {"max_model_len": 128, "max_new_tokens": 64, "prompts_per_step": 8}
    if gpus:
        for name, share in ON_ONE.items():
            owner = {} if name == "policy" else {"share": "policy"}
            roles[name] |= {"precision": "bfloat16", "resources": {"gpus": share, **owner}}
        roles["rollout"] |= {"sleep": True, "weight_sync": {"kind": "cuda_ipc", "max_gap": 1.0}}
    return validate(PPOConfig, {"output": "unused", "prompts": "unused", **roles})


def test_more_than_a_gpu_has_is_refused_with_the_plans_sentence(large: Path) -> None:
    """Two learners of 8 billion parameters on one GPU: 256 GiB of states."""
    with pytest.raises(ResourceError) as refusal:
        check_memory("ppo", config_of(large, gpus=True), parse_cluster("1x1xH100-80"))
    sentence = str(refusal.value)
    assert sentence.startswith("weights, gradients and optimizer states of policy + critic + reference + reward + ")
    assert "GiB of a GPU that has 79.6; first thing to change: " in sentence


def test_more_than_the_machine_has_is_refused(large: Path) -> None:
    with pytest.raises(ResourceError, match=r"of the processes on CPUs take \d+\.\d GiB, and the machine has 24\.0"):
        check_memory("ppo", config_of(large), Cluster(1, 0, None, 24 * GIB))


def test_what_is_only_estimated_warns(tiny_models: Any) -> None:
    """States of a few megabytes fit anywhere; processes, engines and their KV cache are an estimate."""
    (warning,) = check_memory("ppo", config_of(tiny_models.tied), Cluster(1, 0, None, 2 * GIB))
    assert warning.startswith("the plan expects too little memory: the processes without a GPU need")


def test_what_fits_passes_in_silence(tiny_models: Any) -> None:
    assert check_memory("ppo", config_of(tiny_models.tied), Cluster(1, 0, None, 24 * GIB)) == []
    assert check_memory("ppo", config_of(tiny_models.tied, gpus=True), parse_cluster("1x1xH100-80")) == []


TRAINED = ("pretrain", "sft", "reward")


def job_of(stage: str, model: Path | str, **training: Any) -> Any:
    """A training stage whose two workers have this model, or a new one of this tokenizer's vocabulary."""
    named = {"model": {"kind": "existing", "path": str(model)}, "tokenizer": "x"} if stage == "pretrain" else {
        "model": str(model)}
    content = {"output": "unused", "train": ["unused"], "validation": ["unused"], "training": training, **named}
    return validate(load_object(STAGES[stage].config), content)


ON_GPUS = {"precision": "bfloat16", "workers": {"count": 2, "gpus": 1}, "micro_batch_size": 1}


@pytest.mark.parametrize("stage", TRAINED)
def test_training_jobs_are_refused_alike(stage: str, large: Path) -> None:
    """Two workers of 8 billion parameters, ZeRO-1: 75 GiB of states on each GPU, 314 in the memory of a machine."""
    with pytest.raises(ResourceError) as refusal:
        check_memory(stage, job_of(stage, large, **ON_GPUS), parse_cluster("1x2xA100-40"))
    sentence = str(refusal.value)
    assert sentence.startswith("weights, gradients and optimizer states of worker take ")
    assert "GiB of a GPU that has 39.6; first thing to change: training." in sentence
    with pytest.raises(ResourceError, match=r"of the processes on CPUs take \d+\.\d GiB, and the machine has 24\.0"):
        check_memory(stage, job_of(stage, large), Cluster(1, 0, None, 24 * GIB))


@pytest.mark.parametrize("stage", TRAINED)
def test_training_jobs_that_may_fit_are_not_refused(stage: str, large: Path, tiny_models: Any, tmp_path: Path) -> None:
    """Also where memory is not known, where Ray names no kind of GPU, and of models that are not understood."""
    assert check_memory(stage, job_of(stage, tiny_models.tied), Cluster(1, 0, None, 24 * GIB)) == []
    assert check_memory(stage, job_of(stage, large, **ON_GPUS), parse_cluster("1x2xB200-180")) == []
    for unknown in (Cluster(1, 0, None), cluster_of([node(GPU=2.0)] * 2), cluster_of([])):
        assert check_memory(stage, job_of(stage, large), unknown) == []
        assert check_memory(stage, job_of(stage, large, **ON_GPUS), unknown) == []
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 64}')
    assert check_memory(stage, job_of(stage, tmp_path), Cluster(1, 0, None, 1.0)) == []


def test_a_new_model_of_a_tokenizer_elsewhere_is_not_refused() -> None:
    """Its vocabulary is not known before it is fetched."""
    content = {"output": "unused", "tokenizer": "somebody/tokenizer", "train": ["unused"], "validation": ["unused"]}
    config = validate(load_object(STAGES["pretrain"].config), content)
    assert check_memory("pretrain", config, Cluster(1, 0, None, 1.0)) == []


def test_nothing_is_said_where_nothing_is_known(large: Path, tmp_path: Path) -> None:
    """Memory that is not known refuses nobody, nor does a model that the planner does not understand."""
    assert check_memory("ppo", config_of(large), Cluster(1, 0, None, None)) == []
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 64}')
    assert check_memory("ppo", config_of(tmp_path), Cluster(1, 0, None, 1.0)) == []


def node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": {"CPU": 8.0, **resources}}


@pytest.mark.parametrize(
    ("resource", "kind"),
    [("H100", "H100-80"), ("A100", "A100-80"), ("A100-40G", "A100-40"), ("A100-80G", "A100-80"), ("L4", "L4-24"),
     ("L40S", "L40S-48"), ("H200", "H200-141"), ("GeForce-RTX-4090", "RTX4090-24"), ("T4", None), ("V100", None)],
)
def test_rays_names_of_gpus(resource: str, kind: str | None) -> None:
    """Where a name leaves two sizes open the larger is taken: a refusal must be certain."""
    assert largest(f"accelerator_type:{resource}") is (GPUS[kind] if kind else None)
    assert largest("GPU") is None


def test_a_cluster_is_what_its_nodes_say() -> None:
    gpus = cluster_of([node(GPU=8.0, **{"accelerator_type:H100": 1.0})] * 2)
    assert (gpus.nodes, gpus.gpus_per_node, gpus.gpu) == (2, 8, GPUS["H100-80"])
    assert gpus.node_memory is None
    assert cluster_of([node()]).node_memory is not None
    unknown = cluster_of([node(GPU=8.0, **{"accelerator_type:H100": 1.0}), node(GPU=4.0)])
    assert (unknown.gpu, unknown.gpus_per_node) == (None, 0)
