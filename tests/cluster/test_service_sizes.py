"""A RayService of any stage: in which precision, on how many GPUs, with how much memory its engine serves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.cluster.names import quantity
from rlhf.cluster.serving import AT_ONCE, SHARE
from rlhf.plan.frozen import Engine
from rlhf.plan.hardware import GIB, GPUS
from rlhf.plan.memory import ON_GPU
from rlhf.plan.models import require
from tests.cluster.manifests import IMAGE, IN_VOLUME, ROOT
from tests.cluster.test_commands import refusal
from tests.cluster.test_render import STAGES, objects, rendered

SERVE = ("--mount", "/shared", "--kind", "rayservice")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def service(*words: str) -> tuple[dict[str, Any], dict[str, str]]:
    """The model's entry in Serve's config, and the limits of the worker."""
    spec = objects(rendered(*words))["RayService"]["spec"]
    (model,) = yaml.safe_load(spec["serveConfigV2"])["applications"][0]["args"]["llm_configs"]
    group = spec["rayClusterConfig"]["workerGroupSpecs"][0]["template"]["spec"]
    return model, group["containers"][0]["resources"]["limits"]


def holds(name: str, kind: str, parts: int) -> bool:
    """Whether so many GPUs have room for a model, one sequence of its context, and eight of 8,192 tokens."""
    model = require(name, "model")
    engine = Engine(model, 2, parts, AT_ONCE, model.context)
    cache = engine.cached_tokens(engine.on_gpu(SHARE * GPUS[kind].memory, ON_GPU))
    return cache >= model.context and cache >= 8 * min(8192, model.context)


@pytest.mark.parametrize(
    ("config", "name", "kind", "parts"),
    [
        ("sft_llama3_8b_8gpu", "Llama-3-8B", "H100-80", 1),
        ("sft_llama3_70b_16nodes", "Llama-3-70B", "H100-80", 4),
        ("sft_llama3_70b_16nodes", "Llama-3-70B", "H200-141", 2),
        ("sft_qwen2_32b_4nodes", "Qwen2.5-32B", "A100-40", 4),
        ("sft_qwen2_0.5b_1gpu", "Qwen2.5-0.5B", "L4-24", 1),
    ],
)
def test_a_stage_that_trains_on_gpus_serves_on_as_many_as_hold_it(
    config: str, name: str, kind: str, parts: int
) -> None:
    model, limits = service(f"configs/gpu/{config}.yaml", *SERVE, "--gpu", kind)
    assert model["engine_kwargs"] == {"dtype": "bfloat16", "tensor_parallel_size": parts}
    assert model["placement_group_config"] == {"bundle_per_worker": {"CPU": 4, "GPU": 1}}
    assert limits["nvidia.com/gpu"] == str(parts)
    assert holds(name, kind, parts) and (parts == 1 or not holds(name, kind, parts // 2))


def test_a_stage_that_trains_on_cpus_serves_on_one() -> None:
    model, limits = service("configs/sft.yaml", *STAGES["sft"], "--kind", "rayservice")
    assert model["engine_kwargs"] == {"dtype": "float32", "tensor_parallel_size": 1}
    assert (limits["cpu"], "nvidia.com/gpu" in limits) == ("5", False)


def test_an_engine_on_a_cpu_has_the_memory_of_its_plan() -> None:
    """28 GiB of float32 weights, its cache, and Ray."""
    config = ("configs/sft.yaml", *STAGES["sft"], "model=Qwen/Qwen2.5-7B", "--kind", "rayservice")
    _, limits = service(*config)
    weights = 4 * require("Qwen2.5-7B", "model").parameters
    assert weights + 4 * GIB < float(quantity(limits["memory"])) < weights + 16 * GIB
    (line,) = refusal("render", *config, "--image", IMAGE, "--memory", "20")
    assert line.startswith("rlhf: --memory: 20 GiB, and the engine takes 3")


def test_more_than_a_node_holds_is_refused() -> None:
    (line,) = refusal(
        "render", "configs/gpu/sft_llama3_70b_16nodes.yaml", *SERVE, "--image", IMAGE, "--gpu", "L4-24",
        "--gpus-per-node", "4",
    )
    assert line == (
        "rlhf: --kind rayservice: Llama-3-70B has 131 GiB of weights, and no number of GPUs that its heads divide "
        "over, up to 4 × L4-24 GiB, holds them and a cache of 65536 tokens; give --gpu of a kind with more memory"
    )


def test_an_engine_of_rollouts_that_is_too_narrow_is_refused_with_what_is_enough() -> None:
    """And what is named is enough. The engine of the config itself has four GPUs."""
    config = ("configs/gpu/ppo_llama3_70b_16nodes.yaml", *SERVE)
    narrow = ("rollout.tensor_parallel=1", "rollout.resources.gpus=1")
    (line,) = refusal("render", *config, *narrow, "--image", IMAGE)
    assert line == (
        "rlhf: --kind rayservice: 1 × H100-80 GiB do not hold Llama-3-70B in bfloat16 and a cache of 2048 tokens; give "
        "rollout.tensor_parallel=2 rollout.resources.gpus=2"
    )
    for words in ((), ("rollout.tensor_parallel=2", "rollout.resources.gpus=2")):
        model, limits = service(*config, *words)
        assert limits["nvidia.com/gpu"] == str(model["engine_kwargs"]["tensor_parallel_size"])


def test_a_model_of_unknown_size_is_asked_for_where_gpus_have_to_hold_it() -> None:
    """The engine of a PPO run says itself how wide it is."""
    words = ("configs/sft.yaml", *STAGES["sft"], "training.workers.gpus=1", "--kind", "rayservice")
    (line,) = refusal("render", *words, "--image", IMAGE)
    assert line.startswith("rlhf: model: the sizes of '/runs/m' are not known here; ")
    assert line.endswith("; give a directory with config.json, or --model NAME for the sizes of what is not there yet")
    model, _ = service(*words, "--model", "Llama-3-70B")
    assert model["engine_kwargs"]["tensor_parallel_size"] == 4
    engine, _ = service(
        "configs/ppo.yaml", *IN_VOLUME, "configs/profiles/eight_gpu.yaml", "--kind", "rayservice"
    )
    assert engine["engine_kwargs"] == {"dtype": "bfloat16", "tensor_parallel_size": 1}


def test_a_pipeline_serves_the_newest_model_that_it_makes(tmp_path: Path) -> None:
    """Of a pipeline without PPO: what SFT makes of what pretraining made, whose sizes are known by then."""
    content = yaml.safe_load((ROOT / "configs" / "pipeline.yaml").read_text(encoding="utf-8"))
    content["stages"] = {name: content["stages"][name] for name in ("data", "tokenizer", "pretrain", "sft")}
    content["stages"]["sft"]["training"]["workers"] = {"count": 2, "gpus": 1}
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    model, limits = service(str(tmp_path / "pipeline.yaml"), "--kind", "rayservice")
    assert model["model_loading_config"]["model_source"] == "/runs/rlhf/sft"
    assert model["engine_kwargs"] == {"dtype": "bfloat16", "tensor_parallel_size": 1}
    assert limits["nvidia.com/gpu"] == "1"
