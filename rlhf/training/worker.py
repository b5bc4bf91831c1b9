"""What runs in each process of a Ray Train job: build the trainer, train, report."""

from __future__ import annotations

import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stdout
from pathlib import Path

from rlhf.startup import started, starting
from rlhf.training.disk import room_for
from rlhf.training.jobs import TrainJob
from rlhf.training.operators import OFFLOADED_ADAM, RANKS_ON_CPUS, load_operator
from rlhf.training.pickles import go_on_training
from rlhf.training.shares import require_as_sealed
from rlhf.training.standing import Standing


def run_worker(job: TrainJob) -> None:
    """The train loop of one worker; goes on from the newest checkpoint of the run when there is one."""
    starting()
    _prepare_process(job)
    import ray.train

    standing = Standing(job.position_of(ray.train.get_context().get_world_rank()), job.training.deadline_s)
    with standing.watched():
        _load_operators(job)
        from rlhf.training.ending import is_over
        from rlhf.training.since_logged import TakeUpSums
        from rlhf.training.trainers import build_trainer

    checkpoint = ray.train.get_checkpoint()
    # a directory of this process alone: Ray Train merges what the ranks report
    with tempfile.TemporaryDirectory(prefix="rlhf-train-") as scratch, _no_stdout(), _room_in(scratch):
        with standing.watched():
            trainer = build_trainer(job, scratch, standing)
        started()
        if checkpoint is None:
            with standing.watched():
                trainer.train()
            return
        with checkpoint.as_directory() as directory:
            sound = require_as_sealed(Path(directory))
            if not is_over(sound.path):
                trainer.add_callback(TakeUpSums(trainer, sound.path))
                with standing.watched():
                    go_on_training(trainer, sound)


def _load_operators(job: TrainJob) -> None:
    if not job.training.workers.gpus:
        load_operator(RANKS_ON_CPUS)
    if job.training.deepspeed.offload_optimizer:
        load_operator(OFFLOADED_ADAM)


def _room_in(scratch: str) -> AbstractContextManager[None]:
    """Of what a worker writes, all that does not say itself where it goes."""
    return room_for("a checkpoint that is being written", Path(scratch))


@contextmanager
def _no_stdout() -> Iterator[None]:
    """DeepSpeed prints while it starts."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _prepare_process(job: TrainJob) -> None:
    """Threads, and silence: the driver shows one line per logged step. Runs before transformers is imported."""
    import torch

    torch.set_num_threads(job.training.workers.cpus)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    if job.offline:
        os.environ["HF_HUB_OFFLINE"] = "1"
    if not job.training.workers.gpus:
        os.environ["DS_ACCELERATOR"] = "cpu"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    warnings.filterwarnings("ignore")
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # Ray Train sends what is printed in a worker to the root logger, too
    for name in (None, "accelerate", "DeepSpeed", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
