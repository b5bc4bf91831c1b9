"""Asks the run of this machine to end with a checkpoint, before its pod is killed: the preStop hook of a head.

SIGTERM from Kubernetes reaches `ray start` alone, which ends the driver with SIGKILL. And a job whose head is gone
before KubeRay (v1.7.0) has seen the job fail counts as one that does not answer, and is not retried.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath

import psutil

OF_A_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"  # Ray sets it in the process of a submitted job
SEEN_S = 20.0  # the operator looks every 3 s
LEAVING_S = 5.0  # workers that go at the same time tell the head, and else wait for its answer


def drain(
    wait_s: float, seen_s: float = SEEN_S, leaving_s: float = LEAVING_S,
    among: Iterable[psutil.Process] | None = None, sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """SIGTERM to the driver of every submitted run of this machine; returns when they have ended, or after `wait_s`.

    A head pod has one run, so that all processes are looked at unless `among` names those that may be asked.
    The head answers for `seen_s` more if there was any, so that the operator sees the job's end, else for
    `leaving_s`. The numbers of the processes that were asked are returned.
    """
    asked = list(_drivers(psutil.process_iter() if among is None else among))
    for process in asked:
        process.terminate()
    psutil.wait_procs(asked, timeout=wait_s)
    sleep(seen_s if asked else leaving_s)
    return [process.pid for process in asked]


def _drivers(among: Iterable[psutil.Process]) -> Iterator[psutil.Process]:
    """Processes of the command `rlhf` that Ray's job server started, without what these have forked."""
    found = {process.pid: process for process in among if _is_driver(process)}
    for process in found.values():
        if process.ppid() not in found:
            yield process


def _is_driver(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
        return _is_our_command(words) and process.pid != os.getpid() and OF_A_JOB in process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess):
        return False


def _is_our_command(words: list[str]) -> bool:
    """`python …/rlhf run …` or `python -m rlhf run …`, and not the shell round it."""
    if len(words) > 2 and words[1:3] == ["-m", "rlhf"]:
        return True
    return len(words) > 1 and PurePath(words[1]).name == "rlhf"
