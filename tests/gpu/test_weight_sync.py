"""Weights from real learners to real engines, GPU to GPU.

One GPU is enough for CUDA IPC, sleep and offloading. NCCL refuses two processes on one GPU, so its tests need two and
more; they say how many they miss.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
import torch

from rlhf.errors import StalePolicyError
from tests.actors.learner_states import call, sums_of_states, train_once
from tests.gpu.roles import World, on_device, started

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(900)]

GIB = 1024**3
FRACTION = 0.3  # of the GPU, for the engine
# (largest, mean) difference between sampler and learner over tokens, nats. Kernels differ on a GPU also in float32.
BOUNDS = {"float32": (2e-3, 1e-4), "bfloat16": (0.5, 0.03)}


def shared(precision: str, kind: str = "cuda_ipc", **zero: object) -> dict:
    """Policy and engine on one GPU."""
    return {
        "policy": {"precision": precision, "zero": zero, "resources": {"cpus": 0.5, "gpus": 0.5}},
        "rollout": {
            "precision": precision, "sleep": True, "gpu_memory_fraction": FRACTION,
            "weight_sync": {"kind": kind, "max_gap": 1.0},
            "resources": {"cpus": 0.5, "gpus": 0.5, "share": "policy"},
        },
    }


def separate(ranks: int, engines: int, tensor_parallel: int, stage: int) -> dict:
    """Policy ranks and engines on GPUs of their own, in bfloat16."""
    return {
        "policy": {
            "precision": "bfloat16", "zero": {"stage": stage}, "resources": {"ranks": ranks, "cpus": 0.5, "gpus": 1}
        },
        "rollout": {
            "precision": "bfloat16", "tensor_parallel": tensor_parallel, "gpu_memory_fraction": FRACTION,
            "weight_sync": {"kind": "nccl", "max_gap": 1.0},
            "resources": {"ranks": engines, "cpus": 0.5, "gpus": tensor_parallel},
        },
    }


def require_agreement(gap: tuple[float, float], precision: str) -> None:
    largest, mean = gap
    assert (largest < BOUNDS[precision][0], mean < BOUNDS[precision][1]) == (True, True), gap


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["cuda_ipc", "object_store"])
def test_an_engine_that_shares_the_gpu_agrees(world: World, tmp_path: Path, kind: str, precision: str) -> None:
    config = world.config(tmp_path / "out", shared(precision, kind))
    with started(config, world.other, tmp_path) as roles:
        with pytest.raises(StalePolicyError):
            roles.gap(0)
        for version in range(3):
            roles.sync.publish(version).get()
            require_agreement(roles.gap(version), precision)


def test_buckets_of_cuda_ipc_are_reclaimed(tied_world: World, tmp_path: Path) -> None:
    config = tied_world.config(tmp_path / "out", shared("bfloat16"))
    with started(config, tied_world.other, tmp_path) as roles:
        held = []
        for version in range(4):
            roles.sync.publish(version).get()
            roles.gap(version)
            held.append(on_device(roles.policy.actors[0], "held"))
        assert held[-1] - held[0] < 64 * 1024**2


def test_an_engine_that_sleeps_gives_its_memory_back(tied_world: World, tmp_path: Path) -> None:
    config = tied_world.config(tmp_path / "out", shared("bfloat16"))
    reserved = FRACTION * torch.cuda.get_device_properties(0).total_memory
    with started(config, tied_world.other, tmp_path) as roles:
        engine = roles.rollout.actors[0]
        asleep = on_device(engine, "free")
        roles.sync.publish(0).get()
        weights_only = on_device(engine, "free")
        ray.get(engine.wake.remote("kv_cache"))
        awake = on_device(engine, "free")
        ray.get(engine.sleep.remote())
        asleep_again = on_device(engine, "free")
    assert asleep - awake > 0.7 * reserved
    assert asleep - weights_only < 2 * GIB
    assert asleep_again - awake > 0.7 * reserved


def test_a_learner_that_leaves_the_gpu_comes_back_unchanged(tied_world: World, tmp_path: Path) -> None:
    offload = {"stage": 2, "offload_during_rollout": True}
    config = tied_world.config(tmp_path / "out", shared("bfloat16", **offload))
    with started(config, tied_world.other, tmp_path) as roles:
        learner = roles.policy.actors[0]
        trained = call(learner, train_once)
        before = on_device(learner, "held")
        ray.get(learner.leave_device.remote())
        assert on_device(learner, "held") < 0.5 * before
        ray.get(learner.return_to_device.remote())
        assert call(learner, sums_of_states) == trained
        for version in range(2):  # leaves and comes back around each rollout
            call(learner, train_once)
            roles.sync.publish(version).get()
            require_agreement(roles.gap(version), "bfloat16")


@pytest.mark.parametrize(
    ("ranks", "engines", "tensor_parallel", "stage"),
    [(1, 1, 1, 2), (1, 2, 1, 2), (1, 1, 2, 0), (2, 1, 1, 3), (2, 2, 1, 3), (4, 2, 2, 3)],
)
def test_engines_on_gpus_of_their_own_agree_over_nccl(
    world: World, tmp_path: Path, ranks: int, engines: int, tensor_parallel: int, stage: int
) -> None:
    gpus = ranks + engines * tensor_parallel
    if torch.cuda.device_count() < gpus:
        pytest.skip(f"needs {gpus} GPUs, NCCL refuses to share one; this machine has {torch.cuda.device_count()}")
    config = world.config(tmp_path / "out", separate(ranks, engines, tensor_parallel, stage))
    with started(config, world.other, tmp_path) as roles:
        for version in range(3):
            roles.sync.publish(version).get()
            require_agreement(roles.gap(version), "bfloat16")
