"""Run by test_clock.py, under the machine's clock and under one that is set back and forth. Argument: a directory.

A run with checkpoints and metrics that is lost and goes on, a lock that is held, refused and left behind, and a
watchdog: prints what came of each, as JSON.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from actors.watchdog import Watchdog
from rlhf.errors import RunError
from rlhf.lock import locked
from rlhf.metrics import read_json_lines
from rlhf.ppo.loop import train
from rlhf.ppo.recorder import RunRecorder
from rlhf.progress import LineProgress
from rlhf.training.checkpoint import DirectoryCheckpoints, Keeping
from tests.ppo import fakes
from tests.test_lock import HOLD


class Recorded(Watchdog):
    """Keeps when it would have acted."""

    def _act(self, seconds: float) -> None:
        acts.append((seconds, time.monotonic() - began))


acts: list[tuple[float, float]] = []
began = time.monotonic()


def lost_and_resumed(work: Path) -> dict[str, Any]:
    """Eight steps; the policy is lost in the sixth of them."""
    config = fakes.config(steps=8)
    for lost in (5, None):
        roles = fakes.roles()
        roles.policy.fails_at = lost
        recorder = RunRecorder(work, 8, LineProgress())
        checkpoints = DirectoryCheckpoints(work / "checkpoints", Keeping(2))
        try:
            with locked(work, print):
                train(config, roles, checkpoints, recorder)
        except RuntimeError:
            assert lost is not None
        recorder.close()
        checkpoints.close()
    rows = read_json_lines(work / "metrics.jsonl")
    times = [value for row in rows for name, value in row.items() if name.startswith("time/")]
    return {
        "rows": [{k: v for k, v in row.items() if not k.startswith(("time/", "throughput/"))} for row in rows],
        "times are sound": all(0 <= value < 60 for value in times) and bool(times),
        "checkpoints": sorted(path.name for path in (work / "checkpoints").iterdir()),
    }


def held_and_left(work: Path) -> list[str]:
    """What is said while another holds the directory, and after it was killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(work)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    said = []
    try:
        with locked(work, said.append):
            said.append("taken from a live one")
    except RunError as error:
        said.append(str(error))
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with locked(work, said.append):
        said.append("taken")
    return [line.replace(str(work), "WORK").partition(" on ")[0].replace(str(holder.pid), "PID") for line in said]


def watched() -> dict[str, Any]:
    """A run that stands still for two deadlines and a half; then one that goes on for as long."""
    global began
    began = time.monotonic()
    with Recorded(1.0, lambda: "here"):
        time.sleep(2.7)
    still = list(acts)
    acts.clear()
    with Recorded(1.0, time.monotonic):
        time.sleep(2.7)
    return {
        "acted": bool(still), "when moving": bool(acts),
        "after its deadline": all(1.0 < seconds < 60 and waited > 1.0 for seconds, waited in still),
    }


def main() -> None:
    root = Path(sys.argv[1])
    readings = [time.time() for _ in range(20)]
    steps = [after - before for before, after in pairwise(readings)]
    found = {
        "run": lost_and_resumed(root / "run.work"), "lock": held_and_left(root / "held"), "watchdog": watched(),
        "the clock went": [min(steps) < -3600, max(steps) > 3600],
    }
    print("found " + json.dumps(found))


if __name__ == "__main__":
    main()
