"""The memory of a worker's pod holds what the plan says: states that learners offload, an engine on a CPU."""

from __future__ import annotations

from typing import Any

import pytest

from rlhf.cluster.names import quantity
from rlhf.config import load
from rlhf.plan.demands import demands
from rlhf.plan.hardware import GIB
from rlhf.plan.hosts import offloaded
from rlhf.plan.sizes import Sizes
from rlhf.ppo.config import PPOConfig
from tests.cluster.manifests import IMAGE, IN_VOLUME, ROOT
from tests.cluster.test_commands import refusal
from tests.cluster.test_render import objects, rendered

SHARED = "configs/gpu/ppo_llama3_8b_8gpu_shared.yaml"
OFFLOAD = ("training.deepspeed.offload_optimizer=true", "training.deepspeed.offload_parameters=true")
ON_GPU = ("configs/ppo.yaml", *IN_VOLUME, "policy.resources.gpus=1", "policy.zero.offload_optimizer=true")


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def worker(*words: str) -> dict[str, Any]:
    """The only container of a worker."""
    cluster = objects(rendered(*words))["RayJob"]["spec"]["rayClusterSpec"]
    return cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]


def memory(*words: str) -> float:
    """GiB of a worker, /dev/shm included."""
    return float(quantity(worker(*words)["resources"]["limits"]["memory"])) / GIB


def test_offloaded_states_come_on_top_of_the_rule() -> None:
    config = load(PPOConfig, [ROOT / SHARED])
    states = offloaded(demands(config, Sizes())) / GIB
    resident = ("policy.zero.offload_optimizer=false", "critic.zero.offload_optimizer=false")
    with_states, without = (memory(SHARED, "--mount", "/shared", *more) for more in ((), resident))
    assert states > 200
    assert states <= with_states - without < states + 1
    assert f"memory: up to {with_states - without:.0f} GiB of a worker are states" in rendered(
        SHARED, "--mount", "/shared"
    )


def test_70b_with_optimizer_and_weights_offloaded_has_a_limit_that_holds() -> None:
    """1,183 GiB on one node of eight GPUs; on sixteen nodes each has a sixteenth."""
    config = ("configs/gpu/sft_llama3_70b_16nodes.yaml", "--mount", "/shared")
    alone, many = memory(*config, *OFFLOAD, "training.workers.count=8"), memory(*config, *OFFLOAD)
    plain = memory(*config)
    assert alone - plain == pytest.approx(1183, abs=1)
    assert many - plain == pytest.approx(1183 / 16, abs=1)


def test_offloaded_states_of_unknown_size_are_asked_for() -> None:
    (line,) = refusal("render", *ON_GPU, "--image", IMAGE)
    assert line.startswith("rlhf: policy.model: the sizes of '/runs/models/sft' are not known here")
    assert line.endswith("give a directory with config.json, or --model NAME for the sizes of what is not there yet")
    known, resident = memory(*ON_GPU, "--model", "Llama-3-8B"), memory(*ON_GPU[:-1])
    assert known - resident == pytest.approx(16 * 8_030_261_248 / GIB + 8_030_261_248 * 4 / GIB, abs=1)


def test_a_memory_that_does_not_hold_the_states_is_refused() -> None:
    (line,) = refusal("render", SHARED, "--mount", "/shared", "--image", IMAGE, "--memory", "100")
    assert line.startswith("rlhf: --memory: 100 GiB, and states that go to host memory take 2")
    assert line.endswith(", or leave it out")
    assert memory(SHARED, "--mount", "/shared", "--memory", "400") == 400 + 33
