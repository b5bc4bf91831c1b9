"""The first SIGTERM is a request, the second an end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

from rlhf.termination import EXIT_CODE, requests

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
    assert notes == ["SIGTERM: ends after this step, with a checkpoint; a second signal ends it at once"]
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_signal_ends_the_process_at_once() -> None:
    process = subprocess.Popen([sys.executable, "-c", WAIT], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.stdout.readline().startswith("SIGTERM: ") and process.stdout.readline() == "stopping\n"
    process.terminate()
    assert process.wait(timeout=20) == -signal.SIGTERM
    assert EXIT_CODE == 143


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), []

    def work() -> None:
        with requests(seen.append) as stop:
            seen.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False] and signal.getsignal(signal.SIGTERM) == before
