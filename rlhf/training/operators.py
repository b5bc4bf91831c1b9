"""DeepSpeed's operators, compiled by one process at a time, whoever is killed meanwhile.

DeepSpeed compiles an operator at its first use. torch keeps other processes out meanwhile with a file, `lock`, which
outlives a process that is killed in the midst; every later one waits for it without end (torch/utils/file_baton.py).
So the operators of a role are loaded here before DeepSpeed asks for them: under a lock that the kernel gives back
with its holder's death, and after a file without an owner has been removed.
"""

from __future__ import annotations

import fcntl
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

RANKS_ON_CPUS = "ShareMemCommBuilder"  # how the ranks of one host talk to each other without GPUs
OFFLOADED_ADAM = "CPUAdamBuilder"  # the optimizer of states that are kept in host memory

_PAUSE_S = 0.2
_LOGGER = logging.getLogger(__name__)


def load_operator(builder_name: str) -> None:
    """Load an operator, given the name of its class in deepspeed.ops.op_builder; a machine's first process compiles it.

    Left to DeepSpeed is what was compiled when DeepSpeed was installed, and what cannot be compiled here: it goes
    without it, or says why it cannot.
    """
    from deepspeed.accelerator import get_accelerator
    from deepspeed.git_version_info import installed_ops
    from torch.utils.cpp_extension import _get_build_directory

    builder = get_accelerator().create_op_builder(builder_name)
    if builder is None or installed_ops.get(builder.name) or not builder.is_compatible(verbose=False):
        return
    directory = Path(_get_build_directory(builder.name, verbose=False))
    with _one_at_a_time(directory):
        remove_abandoned(directory)
        builder.load(verbose=False)


def remove_abandoned(directory: Path) -> None:
    """Remove torch's `lock` from the directory of an operator once no process of this machine is at work there."""
    lock = directory / "lock"
    while lock.exists() and is_at_work(directory):
        time.sleep(_PAUSE_S)
    with suppress(FileNotFoundError):
        lock.unlink()
        _LOGGER.warning("%s: left by a process that was killed while it compiled; removed", lock)


@contextmanager
def _one_at_a_time(directory: Path) -> Iterator[None]:
    with open(directory / "loading", "a") as stream:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def is_at_work(directory: Path) -> bool:
    """Whether a process has the lock open, or runs in the directory, as the compilers do that a killed one has left."""
    return any(_works_in(process, directory.resolve()) for process in psutil.process_iter())


def _works_in(process: psutil.Process, directory: Path) -> bool:
    try:
        return process.cwd() == str(directory) or any(
            file.path == str(directory / "lock") for file in process.open_files()
        )
    except psutil.Error:  # gone meanwhile, or another user's
        return False
