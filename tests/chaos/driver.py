"""`rlhf STAGE CONFIG` whose driver kills itself: `python -m tests.chaos.driver PLAN.json STAGE CONFIG`.

The plan lists the blows; the same command goes on, as a user's would, and deals the next one. Where the run stood when
it was struck, and what the actors had not answered by then, stands beside each blow afterwards.
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
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.disturber import process_of, steps_redone
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
NOT_ASKED = 70  # exit code of a driver that has not been struck, because a call was never made


@dataclass
class DriverBlow:
    """SIGKILL to the driver in a phase of a step (from 1; 0 in a stage without steps), once `call` (`actor[0].method`)
    is under way: the actor is stopped meanwhile, and the phase held, so that the run cannot get through it. Without a
    call: `delay_s` after the phase began, wherever the run is by then.

    Once it was dealt: `pid` of the driver, where it `stood`, the `calls` that were not answered, and the process that
    was `stopped`. Once the same command went on: `resumed` is the step at which it then began, `lost_s` the seconds
    until it was in the same phase again.
    """

    step: int
    phase: str
    call: str | None = None
    delay_s: float = 0.0
    pid: int | None = None
    stood: list[Any] | None = None
    calls: list[str] = field(default_factory=list)
    stopped: int | None = None
    at: float = 0.0
    resumed: int | None = None
    lost_s: float | None = None

    @property
    def redone(self) -> int:
        """Steps that were made twice."""
        assert self.resumed is not None
        return steps_redone(self.step, self.phase, self.resumed)


class SelfKilling:
    """Is told of every phase of the run in this process, and ends it where the plan says."""

    def __init__(self, plan: Path) -> None:
        self.path, self.pools = plan, dict[str, Any]()
        self.blows = read(plan)
        self._stands: list[Any] = [0, "start"]
        self._is_held = False

    def leave(self) -> None:
        if self._is_held:
            threading.Event().wait()  # until the blow

    def enter(self, step: int, phase: str) -> None:
        self._stands = [step, phase]
        waiting = [blow for blow in self.blows if blow.pid is None]
        is_dying = any(blow.pid == os.getpid() for blow in self.blows)
        if not is_dying:
            self._note_return(step, phase)
        if waiting and not is_dying and (waiting[0].step, waiting[0].phase) == (step, phase):
            self._prepare(waiting[0])

    def _note_return(self, step: int, phase: str) -> None:
        """The run goes on after the last blow: from which step, and when it is where it was."""
        last = next((blow for blow in reversed(self.blows) if blow.pid is not None), None)
        if last is None or last.lost_s is not None or phase == "start":
            return
        if last.resumed is None:
            last.resumed = step
        if (step, phase) == (last.step, last.phase) or step > last.step:
            last.lost_s = time.time() - last.at
        write(self.path, self.blows)

    def _prepare(self, blow: DriverBlow) -> None:
        blow.pid = os.getpid()
        if blow.call is not None:
            blow.stopped, self._is_held = process_of(self.pools, blow.call.partition(".")[0]), True
            os.kill(blow.stopped, signal.SIGSTOP)
        threading.Thread(target=self._die, args=(blow,), daemon=True).start()

    def _die(self, blow: DriverBlow) -> None:
        began = time.monotonic()
        time.sleep(blow.delay_s)
        blow.calls = self._calls()
        while blow.call is not None and blow.call not in blow.calls:
            if time.monotonic() - began > HANG_S:
                print(f"{blow.call} was not asked for in {blow.phase}, but {blow.calls}", flush=True)
                os._exit(NOT_ASKED)
            time.sleep(0.005)
            blow.calls = self._calls()
        blow.stood, blow.at = self._stands, time.time()
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


def through(stage: str, config: Any, blows: Sequence[DriverBlow], directory: Path, address: str) -> list[DriverBlow]:
    """Run a stage on a config under blows, the same command again after each, until it ends by itself: the blows dealt.
    Plan, config and logs lie in the directory."""
    directory.mkdir()
    plan, settings = directory / "plan.json", directory / "config.yaml"
    write(plan, blows)
    settings.write_text(config.model_dump_json())  # JSON is YAML
    command = [sys.executable, "-m", "tests.chaos.driver", str(plan), stage, str(settings)]
    variables = {**os.environ, "RAY_ADDRESS": address, "RAY_AUTH_MODE": "disabled"}
    for number in range(len(blows) + 1):
        with open(directory / f"driver_{number}.log", "w") as log:
            code = subprocess.run(command, cwd=ROOT, env=variables, stdout=log, stderr=log, check=False).returncode
        dealt = [blow for blow in read(plan) if blow.pid is not None]
        _let_go(dealt)
        wanted = (-signal.SIGKILL, number + 1) if number < len(blows) else (0, number)
        assert (code, len(dealt)) == wanted, Path(log.name).read_text()
    return dealt


def _let_go(dealt: Sequence[DriverBlow]) -> None:
    """Ray ends the actors of a driver that is gone; one that is stopped is to hear of it."""
    for blow in dealt:
        if blow.stopped is not None:
            with suppress(ProcessLookupError):
                os.kill(blow.stopped, signal.SIGCONT)


def main(plan: Path, *words: str) -> None:
    import pytest

    from rlhf import cli
    from tests.chaos.runs import disturbed

    with disturbed(pytest.MonkeyPatch(), SelfKilling(plan)):
        cli.main(words)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
