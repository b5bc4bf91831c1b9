"""A PPO run whose driver kills itself: `python -m tests.chaos.driver CONFIG.json PLAN.json`.

The plan lists the blows, each with a delay; the same command goes on, as a user's would, and deals the next one. What
the actors had not answered at that moment stands beside it afterwards.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SEEN_S = 1.0  # until a call of a phase is under way, where it has any
ROOT = Path(__file__).resolve().parents[2]


@dataclass
class DriverBlow:
    """SIGKILL to the driver, `delay_s` after a call of this phase was under way; `calls` are those that still were."""

    step: int
    phase: str
    delay_s: float = 0.0
    pid: int | None = None
    calls: list[str] = field(default_factory=list)


class SelfKilling:
    """Is told of every phase of the run in this process, and ends it where the plan says."""

    def __init__(self, plan: Path) -> None:
        self.path, self.pools = plan, dict[str, Any]()
        self.blows = read(plan)

    def enter(self, step: int, phase: str) -> None:
        waiting = [blow for blow in self.blows if blow.pid is None]
        is_dying = any(blow.pid == os.getpid() for blow in self.blows)
        if waiting and not is_dying and (waiting[0].step, waiting[0].phase) == (step, phase):
            waiting[0].pid = os.getpid()
            threading.Thread(target=self._die, args=(waiting[0],), daemon=True).start()

    def _die(self, blow: DriverBlow) -> None:
        began = time.monotonic()
        while not (calls := self._calls()) and time.monotonic() - began < SEEN_S:
            time.sleep(0.002)
        time.sleep(blow.delay_s)
        blow.calls = self._calls() or calls
        write(self.path, self.blows)
        os.kill(os.getpid(), signal.SIGKILL)

    def _calls(self) -> list[str]:
        pools: Mapping[str, Any] = dict(self.pools)
        return [f"{call.actor}.{call.method}" for pool in pools.values() for call in pool.under_way()]

    def join(self) -> None: ...


def read(plan: Path) -> list[DriverBlow]:
    return [DriverBlow(**blow) for blow in json.loads(plan.read_text())]


def write(plan: Path, blows: Sequence[DriverBlow]) -> None:
    plan.write_text(json.dumps([asdict(blow) for blow in blows]))


def through(config: Any, plan: Path, address: str) -> list[DriverBlow]:
    """Run a config under a plan, the same command again after each blow, until it ends by itself: the blows dealt."""
    (path := plan.with_name("config.json")).write_text(config.model_dump_json())
    command = [sys.executable, "-m", "tests.chaos.driver", str(path), str(plan)]
    variables = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    for number in range(len(read(plan)) + 1):
        with open(plan.with_name(f"driver_{number}.log"), "w") as log:
            code = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=log, check=False).returncode
        dealt = sum(blow.pid is not None for blow in read(plan))
        wanted = (-signal.SIGKILL, number + 1) if number < len(read(plan)) else (0, number)
        assert (code, dealt) == wanted, Path(log.name).read_text()
    return read(plan)


def main(config: Path, plan: Path) -> None:
    import pytest

    from actors import ppo_job
    from actors.session import ray_session
    from rlhf.config import validate
    from rlhf.pipeline import Job, run_job
    from rlhf.ppo.config import PPOConfig
    from rlhf.progress import LineProgress
    from tests.chaos.runs import disturbed

    ppo = validate(PPOConfig, json.loads(config.read_text()))
    with disturbed(pytest.MonkeyPatch(), SelfKilling(plan)), ray_session(ppo.cluster):
        run_job(Job("ppo", ppo, ppo_job.run), LineProgress())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
