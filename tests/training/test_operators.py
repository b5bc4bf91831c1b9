"""Operators of DeepSpeed that a killed process was compiling: nobody waits for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from rlhf.training.operators import remove_abandoned
from tests.limits import HANG_S, wait_until

HOLD = "import os, sys, time; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print(flush=True); time.sleep(9999)"
JOIN = """
from deepspeed.git_version_info import installed_ops
installed_ops.clear()  # as where DeepSpeed was installed without its operators
from rlhf.training.ranks import MeetingPlace, Rank, join_ranks
place = MeetingPlace("127.0.0.1")
join_ranks(Rank(0, 1, place.address, place.port))
import torch.distributed as dist
print("joined", dist.get_world_size())
"""


def test_a_lock_without_an_owner_is_removed(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    remove_abandoned(tmp_path)
    assert list(tmp_path.iterdir()) == []
    remove_abandoned(tmp_path)  # nothing to do


def test_a_lock_is_waited_for_while_its_owner_lives(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE)
    _returns_when_it_is_killed(owner, tmp_path)


def test_a_lock_is_waited_for_while_a_compiler_runs_there(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    orphan = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "an_object")], stdout=subprocess.PIPE, cwd=tmp_path
    )
    _returns_when_it_is_killed(orphan, tmp_path)


def _returns_when_it_is_killed(worker: subprocess.Popen[bytes], directory: Path) -> None:
    assert worker.stdout is not None
    worker.stdout.readline()
    waiting = threading.Thread(target=remove_abandoned, args=(directory,), daemon=True)
    waiting.start()
    waiting.join(timeout=1.0)
    assert waiting.is_alive() and (directory / "lock").exists()
    worker.kill()
    worker.wait()
    waiting.join(timeout=HANG_S)
    assert not (directory / "lock").exists()


@pytest.mark.slow
@pytest.mark.exhaustive
def test_ranks_start_although_the_process_that_compiled_was_killed(tmp_path: Path) -> None:
    environment = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions"), "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, "-c", JOIN]
    lock = tmp_path / "extensions" / "deepspeed_shm_comm" / "lock"
    first = subprocess.Popen(command, env=environment, start_new_session=True)
    wait_until(lambda: list(lock.parent.glob("build.ninja")), lambda: first.poll() is None, "the first compilation")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert lock.exists()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_S)
    assert "joined 1" in second.stdout, second.stderr
    assert not lock.exists()
