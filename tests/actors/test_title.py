"""What `ps` says of a process at work, and what Ray's metrics may know of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
import os, pathlib, subprocess
from actors.title import Titled, titled

def shown():
    ps = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(os.getpid())], capture_output=True, text=True)
    first = pathlib.Path("/proc/self/cmdline").read_bytes().partition(b"\\0")[0].decode()
    return ps.stdout.strip() + " | " + first

class Policy(Titled):
    def __repr__(self):
        return "policy[0]"

    def update(self, word):
        return word + " " + shown()

print(Policy().at(12, "update", "given"))
print(Policy().at(None, "update", "given"))
print("after", shown())
try:
    with titled("policy[0]", "step 13 update"):
        raise ValueError
except ValueError:
    print("broken", shown())
with titled("policy[0]", "step 14 " + "long " * 5000):
    print("long", shown()[:60])
"""


def test_a_process_shows_its_step_and_no_metric_learns_of_it() -> None:
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=True, timeout=HANG_S)
    log, lines = done.stderr.splitlines()[-1], done.stdout.splitlines()
    assert log[2] == ":" and log.endswith(" step 12 update")
    assert lines[0] == "given ray::policy[0] step 12 update | ray::policy[0]"
    assert lines[1] == "given ray::policy[0] update | ray::policy[0]"
    assert lines[2] == "after ray::policy[0] | ray::policy[0]"
    assert lines[3] == "broken ray::policy[0] | ray::policy[0]"
    assert lines[4] == "long ray::policy[0] | ray::policy[0]"  # no room: no step, rather than one in a metric
