"""What is not finite stops pretraining, SFT and reward model at once; a gradient of zero does not.

Real trainers over DeepSpeed on two processes over gloo.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.limits import HANG_S
from tests.training.trainers import (
    INFINITE_GRADIENT,
    LENGTH,
    NAN_LOSS,
    NO_GRADIENT,
    STEPS,
    Odd,
    Trained,
    TrainerRank,
    job_of,
)

HALF, FULL = "bfloat16", "float32"


@pytest.fixture(scope="module")
def workers(ray_cluster) -> list:
    import ray

    remote = ray.remote(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(TrainerRank)
    actors = [remote.remote(rank) for rank in range(2)]
    address, port = ray.get(actors[0].meeting_place.remote())
    ray.get([actor.join.remote(2, address, port) for actor in actors])
    return actors


def trained(workers: list, work: Path, models, stage: int, precision: str, odd: Odd) -> list[Trained]:
    import ray

    job = job_of(work, models.tied, stage, precision)
    return ray.get([worker.train.remote(job, odd) for worker in workers], timeout=HANG_S)


def cases() -> list:
    """In `make test` the one that is usual on GPUs, and the one where DeepSpeed tells no norm."""
    often = [(1, HALF), (0, FULL)]
    rest = [(stage, precision) for precision in (HALF, FULL) for stage in range(4) if (stage, precision) not in often]
    return [*often, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in rest)]


@pytest.mark.parametrize(("stage", "precision"), cases())
@pytest.mark.parametrize(
    ("odd", "what"), [(NAN_LOSS, "the loss is nan"), (INFINITE_GRADIENT, "the gradient is not finite")],
    ids=["loss", "gradient"],
)
def test_what_is_not_finite_ends_training_at_that_step(
    workers: list, tiny_models, tmp_path: Path, odd: Odd, what: str, stage: int, precision: str
) -> None:
    """On all workers, with one batch saved, and with no weight changed where DeepSpeed looks at the norm."""
    ends = trained(workers, tmp_path, tiny_models, stage, precision, odd)
    for end in ends:
        assert end.step == 2 and end.said is not None and f"pretrain: {what} at step 2 on worker " in end.said
        same = all(map(torch.equal, end.before, end.after))
        assert same or (stage, precision) == (0, FULL)
    (saved,) = tmp_path.glob("bad_batch_step2_worker*.safetensors")
    assert str(saved) in ends[0].said and load_file(saved)["input_ids"].shape == (1, LENGTH)


@pytest.mark.parametrize(("stage", "precision"), cases())
def test_a_gradient_of_zero_is_a_step_like_any_other(
    workers: list, tiny_models, tmp_path: Path, stage: int, precision: str
) -> None:
    for end in trained(workers, tmp_path, tiny_models, stage, precision, NO_GRADIENT):
        assert (end.step, end.said, end.counted) == (STEPS, None, {STEPS})
        assert all(bool(weight.isfinite().all()) for weight in end.after)
