"""The first SIGTERM is a request, the second an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from rlhf.termination import EXIT_CODE, Interrupted, requests
from tests.limits import HANG_S

WAIT = """
import time
from rlhf.termination import requests
with requests(lambda said: print(said, flush=True)) as stop:
    print("ready", flush=True)
    while True:
        time.sleep(0.01)
        if stop():
            print("stopping", flush=True)
            time.sleep(60)
"""


def test_a_request_is_noted_and_the_handler_put_back() -> None:
    before, notes = signal.getsignal(signal.SIGTERM), []
    with requests(notes.append) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop() and stop()
    assert notes == ["SIGTERM: ends as soon as there is a checkpoint; a second signal ends it at once"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_work_that_may_be_given_up_is() -> None:
    """Inside the block at once, before it at its beginning, and elsewhere not."""
    with requests(lambda said: None) as stop:
        with stop.interrupts():
            pass
        with pytest.raises(Interrupted), stop.interrupts():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(20)
        reached = False
        with pytest.raises(Interrupted), stop.interrupts():
            reached = True
        assert not reached and stop()
    with requests(lambda said: None) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_a_command_ends_as_an_exception_would_end_it() -> None:
    script = """
import time
from rlhf.termination import ends_process
ends_process()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("cleaned up", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.communicate(timeout=HANG_S)[0] == "cleaned up\n" and process.returncode == EXIT_CODE


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline().startswith("SIGTERM: ") and process.stdout.readline() == "stopping\n"
    process.terminate()
    assert process.wait(timeout=HANG_S) == -signal.SIGTERM
    assert EXIT_CODE == 143


@pytest.mark.parametrize("error", [BrokenPipeError("nobody reads"), RuntimeError("reentrant call")], ids=repr)
def test_a_request_that_cannot_be_told_is_one_all_the_same(error: Exception) -> None:
    def note(_: str) -> None:
        raise error

    with requests(note) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with requests(seen.append) as stop:
            seen.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGTERM) == before
