"""The preStop hook of a head: the driver of a submitted run is asked, waited for, and nothing else is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from rlhf.cluster.drain import OF_A_JOB, drain
from tests.limits import HANG_S

# What a driver does with SIGTERM, with a second instead of a step: end it, and exit with 143.
DRIVER = """
import os, signal, sys, time
def end(*_):
    time.sleep(float(os.environ.get("ENDS_IN_S", 0.5)))
    print("checkpoint", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, end)
print("running", flush=True)
time.sleep(60)
"""


class Processes:
    """Starts processes, and ends what is left of them."""

    def __init__(self, folder: Path) -> None:
        self.started: list[subprocess.Popen[str]] = []
        self.script = folder / "rlhf"
        self.script.write_text(DRIVER)

    def start(self, *words: str, job: bool = True) -> subprocess.Popen[str]:
        environment = {name: value for name, value in os.environ.items() if name != OF_A_JOB}
        environment.update({OF_A_JOB: "{}"} if job else {})
        process = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        self.started.append(process)
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        return process


def own() -> list[psutil.Process]:
    """What this test has started: other runs on this machine are not ours to end."""
    return psutil.Process().children(recursive=True)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    for process in made.started:
        process.kill()
        process.wait()


def test_the_driver_ends_its_step_before_the_hook_returns(processes: Processes) -> None:
    """As Ray's job server starts it: in a shell, which must not be signalled in its place."""
    shell = processes.start("/bin/sh", "-c", f"{sys.executable} {processes.script} run x.yaml; exit $?")
    asked = drain(10.0, seen_s=0.0, among=own())
    assert len(asked) == 1 and asked != [shell.pid]
    assert shell.wait(HANG_S) == 143
    assert shell.stdout is not None and shell.stdout.read() == "checkpoint\n"


def test_it_waits_no_longer_than_it_may(processes: Processes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENDS_IN_S", "3600")
    process = processes.start(sys.executable, str(processes.script), "run")
    assert drain(0.1, seen_s=0.0, among=own()) == [process.pid]
    assert process.poll() is None


def test_the_operator_has_time_to_see_the_end(processes: Processes) -> None:
    process, slept = processes.start(sys.executable, str(processes.script), "run"), []

    def sleep(seconds: float) -> None:
        slept.append((seconds, psutil.pid_exists(process.pid)))

    drain(HANG_S, seen_s=7.0, among=own(), sleep=sleep)
    assert slept == [(7.0, False)], "after its end"


def test_other_processes_are_left_alone(processes: Processes) -> None:
    """The same command by hand, and another command of a submitted job."""
    by_hand = processes.start(sys.executable, str(processes.script), "run", job=False)
    other = processes.script.with_name("other")
    shutil.copy(processes.script, other)
    foreign = processes.start(sys.executable, str(other), "run")
    slept: list[float] = []
    assert drain(5.0, leaving_s=7.0, among=own(), sleep=slept.append) == []
    assert slept == [7.0]
    assert by_hand.poll() is None and foreign.poll() is None
