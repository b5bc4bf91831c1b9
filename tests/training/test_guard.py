"""What is not finite stops pretraining, SFT and reward model at once, or leaves the step out; a gradient of zero does
neither.

Real trainers over DeepSpeed on two processes over gloo.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlhf.errors import NumericError
from rlhf.metrics import read_objects
from rlhf.training.jobs import TrainJob
from rlhf.training.shares import seal_share
from tests.limits import HANG_S
from tests.training.trainers import (
    INFINITE_GRADIENT,
    INFINITE_LOSS,
    INFINITE_NORM,
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
SKIP = {"kind": "skip"}


@pytest.fixture(scope="module")
def workers(ray_cluster) -> list:
    import ray

    remote = ray.remote(num_cpus=0, runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}})(TrainerRank)
    actors = [remote.remote(rank) for rank in range(2)]
    address, port = ray.get(actors[0].meeting_place.remote())
    ray.get([actor.join.remote(2, address, port) for actor in actors])
    return actors


def trained(workers: list, job: TrainJob, odd: Odd, checkpoint: Path | None = None) -> list[Trained]:
    import ray

    return ray.get([worker.train.remote(job, odd, checkpoint) for worker in workers], timeout=HANG_S)


def cases() -> list:
    """In `make test` the one that is usual on GPUs, and the one where DeepSpeed tells no norm."""
    often = [(1, HALF), (0, FULL)]
    rest = [(stage, precision) for precision in (HALF, FULL) for stage in range(4) if (stage, precision) not in often]
    return [*often, *(pytest.param(*case, marks=pytest.mark.exhaustive) for case in rest)]


@pytest.mark.parametrize(("stage", "precision"), cases())
@pytest.mark.parametrize(
    ("odd", "what"), [
        (NAN_LOSS, "the loss is nan"), (INFINITE_GRADIENT, "the gradient norm is not finite"),
        pytest.param(INFINITE_LOSS, "the loss is nan", marks=pytest.mark.exhaustive),
    ], ids=["loss", "gradient", "infinite loss"],
)
def test_what_is_not_finite_ends_training_at_that_step(
    workers: list, tiny_models, tmp_path: Path, odd: Odd, what: str, stage: int, precision: str
) -> None:
    """On all workers, with one batch saved, and with no weight changed."""
    ends = trained(workers, job_of(tmp_path, tiny_models.tied, stage, precision), odd)
    for end in ends:
        assert end.step == 2 and end.said is not None and f"pretrain: {what} at step 2 on worker " in end.said
        assert all(map(torch.equal, end.before, end.after))
    (saved,) = tmp_path.glob("bad_batch_step2_worker*.safetensors")
    assert str(saved) in ends[0].said and load_file(saved)["input_ids"].shape == (1, LENGTH)


@pytest.mark.parametrize(("stage", "precision"), cases())
@pytest.mark.parametrize("odd", [NAN_LOSS, INFINITE_GRADIENT], ids=["loss", "gradient"])
def test_what_is_not_finite_is_left_out_where_the_config_says_so(
    workers: list, tiny_models, tmp_path: Path, odd: Odd, stage: int, precision: str
) -> None:
    """It changes no weight and no count of the optimizer, and is in no mean."""
    job = job_of(tmp_path, tiny_models.tied, stage, precision, log_every=STEPS, schedule="linear", not_finite=SKIP)
    for end in trained(workers, job, odd):
        assert (end.step, end.said) == (STEPS, None)
        assert all(map(torch.equal, end.before, end.after))
        assert max(end.counted) < STEPS
        (line,) = end.lines
        assert line["left_out"] == 1 and math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"])
        assert line["learning_rate"] == pytest.approx(0.01 / STEPS), "that of the third step"
    (saved,) = tmp_path.glob("bad_batch_step2_worker*.safetensors")
    assert load_file(saved)["input_ids"].shape == (1, LENGTH)
    (told,) = read_objects(job.told)
    assert told["sentence"].endswith(f"the batch was saved as {saved}; it is number 1 in a row, and is left out")


@pytest.mark.parametrize("stage", [0, pytest.param(1, marks=pytest.mark.exhaustive)])
def test_so_is_one_whose_norm_alone_is_infinite(workers: list, tiny_models, tmp_path: Path, stage: int) -> None:
    """(Under ZeRO-3 DeepSpeed sums squares in float64: there it is clipped like any other.)"""
    job = job_of(tmp_path, tiny_models.tied, stage, FULL, log_every=STEPS, not_finite=SKIP)
    for end in trained(workers, job, INFINITE_NORM):
        assert (end.step, end.said, end.lines[0]["left_out"]) == (STEPS, None, 1)
        assert all(map(torch.equal, end.before, end.after)) and max(end.counted) < STEPS
    (told,) = read_objects(job.told)
    assert "the gradient norm is not finite at step 2 on worker 0; " in told["sentence"]


def test_a_line_is_that_of_the_other_steps(workers: list, tiny_models, tmp_path: Path) -> None:
    def lines(name: str, **changes) -> list[dict[str, float]]:
        job = job_of(tmp_path / name, tiny_models.tied, 1, FULL, not_finite=SKIP, **changes)
        return trained(workers, job, NAN_LOSS)[0].lines

    first, last = lines("each", log_every=1)
    assert (first["step"], first["left_out"], last["step"], last["left_out"]) == (1, 0, 3, 1)
    (mean,) = lines("mean", log_every=STEPS)
    assert mean["loss"] == pytest.approx((first["loss"] + last["loss"]) / 2, rel=1e-6)


def test_so_many_in_a_row_end_it_also_across_a_checkpoint(workers: list, tiny_models, tmp_path: Path) -> None:
    job = job_of(tmp_path, tiny_models.tied, 1, FULL, eval_every=2, not_finite={**SKIP, "in_a_row": 1})
    checkpoint = left_after_two(workers, job)
    for end in trained(workers, job, replace(NAN_LOSS, steps=(3,)), checkpoint):
        assert end.step == 3 and end.said is not None
        assert "pretrain: the loss is nan at step 3 on worker 1; " in end.said
        assert "it is number 2 in a row, more than training.not_finite.in_a_row = 1; " in end.said


@pytest.mark.parametrize("kind", ["pretrain", pytest.param("reward", marks=pytest.mark.exhaustive)])
def test_a_line_that_a_kill_cuts_in_two_counts_the_same(workers: list, tiny_models, tmp_path: Path, kind: str) -> None:
    """A step that is left out before the checkpoint, and the one after it, in one line."""
    changes = {"kind": kind, "eval_every": 2, "log_every": STEPS, "not_finite": SKIP}
    whole = job_of(tmp_path / "whole", tiny_models.tied, 1, FULL, **changes)
    parts = job_of(tmp_path / "parts", tiny_models.tied, 1, FULL, **changes)
    (wanted,) = trained(workers, whole, NAN_LOSS)[0].lines
    (found,) = trained(workers, parts, Odd(), left_after_two(workers, parts))[0].lines
    names = {"loss", "grad_norm", "learning_rate", "left_out", *(["accuracy", "margin"] if kind == "reward" else [])}
    assert {name: found[name] for name in names} == {name: wanted[name] for name in names}
    assert found["left_out"] == 1 and all(math.isfinite(found[name]) for name in names)


def left_after_two(workers: list, job: TrainJob) -> Path:
    """The checkpoint of the first two steps, of which the second was left out."""
    first = trained(workers, replace(job, total_steps=2), NAN_LOSS)
    assert [(end.step, end.said) for end in first] == [(2, None)] * 2
    checkpoint = job.work / "checkpoint-2"
    for rank in range(2):
        shutil.copytree(job.work / f"scratch{rank}" / checkpoint.name, checkpoint, dirs_exist_ok=True)
    for rank in range(2):
        seal_share(checkpoint, rank, 2)
    return checkpoint


@pytest.mark.parametrize(("stage", "precision"), cases())
def test_a_gradient_of_zero_is_a_step_like_any_other(
    workers: list, tiny_models, tmp_path: Path, stage: int, precision: str
) -> None:
    for end in trained(workers, job_of(tmp_path, tiny_models.tied, stage, precision), NO_GRADIENT):
        assert (end.step, end.said, end.counted) == (STEPS, None, {STEPS})
        assert all(bool(weight.isfinite().all()) for weight in end.after)


def test_a_sentence_that_cannot_be_written_is_the_error_of_the_worker(
    workers: list, tiny_models, tmp_path: Path
) -> None:
    """A full disk, say: that is not why it ends. The other worker waits for this one, so no test comes after it."""
    job = job_of(tmp_path, tiny_models.tied, 1, FULL)
    job.failure.mkdir()
    with pytest.raises(NumericError, match="pretrain: the loss is nan at step 2 on worker 1; the batch was saved as "):
        trained(workers, job, NAN_LOSS)
