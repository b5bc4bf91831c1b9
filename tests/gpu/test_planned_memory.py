"""What the planner says of a GPU's memory, against what real actors took of one, in bfloat16 for three sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rlhf.plan.hardware import GIB, Gpu
from rlhf.plan.machine import this_machine
from tests.plan.actor_memory import Models, Setup, Size, build, peak

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("ray_cluster"), pytest.mark.timeout(1200)]

WITHIN = 0.15
# Large beside DeepSpeed's two buckets, 2 GiB; the largest takes some 40 GiB. Heads are of 64.
SIZES = {"188M": Size(1024, 12, 4096), "614M": Size(1536, 18, 6144), "1675M": Size(2048, 28, 8192)}
ROWS, TOKENS = 64, 4096


@pytest.fixture(scope="module", params=SIZES)
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Models:
    return build(SIZES[request.param], tmp_path_factory.mktemp(request.param), "bfloat16")


@pytest.fixture
def gpu() -> Gpu:
    """The kind that is here, with the memory that its driver offers."""
    found = this_machine().gpu
    assert found is not None
    return found


def tensors(_: Any) -> float:
    """Runs in an actor: the most that its tensors have held, bytes."""
    import torch

    return float(torch.cuda.max_memory_allocated())


def used(_: Any) -> float:
    """Runs in an actor: bytes of its GPU that are in use; nobody else is to be on it."""
    import torch

    torch.cuda.synchronize()
    free, total = torch.cuda.mem_get_info()
    return float(total - free)


def require_near(role: str, expected: float, measured: float) -> None:
    print(f"{role}: measured {measured / GIB:.2f} GiB, planned {expected / GIB:.2f}, {expected / measured:.3f}")
    assert expected == pytest.approx(measured, rel=WITHIN)


def setup_of(models: Models, **changes: Any) -> Setup:
    return Setup(models, precision="bfloat16", rows=ROWS, tokens=TOKENS, gpus=1.0, **changes)


@pytest.mark.parametrize(
    ("role", "changes"),
    [
        ("policy", {}), ("policy", {"stage": 3}), ("policy", {"checkpointing": True}), ("critic", {}),
        ("reference", {}), ("reward", {}),
    ],
)
def test_tensors_of_a_role_take_what_was_planned(
    role: str, changes: dict[str, Any], models: Models, gpu: Gpu, tmp_path: Path
) -> None:
    """All of the plan but `runtime`, which torch does not count: the CUDA context and NCCL."""
    setup = setup_of(models, **changes)
    planned = setup.planned(role).on(gpu)
    require_near(role, planned.peak - planned.runtime, peak(setup, role, tmp_path, tensors))


def test_an_engine_takes_the_share_that_it_is_given(models: Models, gpu: Gpu, tmp_path: Path) -> None:
    """Of the device: vLLM counts its context into its share, and the plan beside it."""
    setup = setup_of(models)
    require_near("rollout", setup.planned("rollout").on(gpu).peak, peak(setup, "rollout", tmp_path, used))
