"""`rlhf STAGE …` inside a submitted job, which asks the test before the phases that it is to be struck in.

    python -m tests.cluster.driver BOARD STAGE FILE… key=value…

Test and driver write files into the directory BOARD, which both see. `STEP-PHASE.wanted` is the test's wish: an actor
and what it is to be asked, or nothing. When that phase begins the driver writes `.begun`, with the node of every actor,
and waits for the test's `.ready`; the run goes on, and when that call, and all others of the phase, are under way it
writes them into `.calls`, with where the run stands then. `phases.jsonl` has the beginning of every phase, in seconds
of the clock.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import write_text
from rlhf.cli import main
from tests.chaos.runs import disturbed
from tests.limits import wait_until

CALLS_S = 1.0  # until every call of a phase is made, once one is
ANSWER_S = 600.0


@dataclass
class Board:
    """The driver's side."""

    directory: Path
    pools: Mapping[str, Any] = field(default_factory=dict)
    stands: tuple[int, str] = (0, "start")

    def leave(self) -> None:
        """Nothing holds a phase but the machine that is frozen."""

    def enter(self, step: int, phase: str) -> None:
        """A phase begins: asks once where the test has wished it."""
        self.stands = step, phase
        with open(self.directory / "phases.jsonl", "a") as log:
            log.write(json.dumps({"time": time.time(), "step": step, "phase": phase}) + "\n")
        mark = self.directory / f"{step}-{phase}"
        if not mark.with_suffix(".wanted").exists() or mark.with_suffix(".begun").exists():
            return
        nodes = {each.actor: each.node for pool in self.pools.values() for each in pool.located()}
        write_text(mark.with_suffix(".begun"), json.dumps(nodes))
        self._wait_for(mark.with_suffix(".ready"))
        threading.Thread(target=self._tell_calls, args=(mark,), daemon=True).start()

    def join(self) -> None:
        """Nothing is left to do at the end."""

    def _wait_for(self, answer: Path) -> None:
        end = time.monotonic() + ANSWER_S
        while not answer.exists():
            if time.monotonic() > end:
                raise TimeoutError(f"{answer}: nobody wrote it")
            time.sleep(0.02)

    def _tell_calls(self, mark: Path) -> None:
        """Which actors have not answered which calls, and where the run stands."""
        wanted = json.loads(mark.with_suffix(".wanted").read_text()).items()
        wait_until(lambda: wanted <= self._calls().items(), what=f"{dict(wanted)} in {mark.name}")
        time.sleep(CALLS_S)
        write_text(mark.with_suffix(".calls"), json.dumps({"calls": self._calls(), "stood": self.stands}))

    def _calls(self) -> dict[str, str]:
        return {each.actor: each.method for pool in self.pools.values() for each in pool.under_way()}


if __name__ == "__main__":
    with pytest.MonkeyPatch.context() as patch, disturbed(patch, Board(Path(sys.argv[1]))):
        main(sys.argv[2:])
