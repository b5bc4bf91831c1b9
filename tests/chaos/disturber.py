"""Breaks processes of a PPO run in this process, each in a phase that it was seen to be in."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

SEEN_S = 20.0  # until a call to a process that does not run any more is under way


@dataclass(frozen=True)
class Blow:
    """A signal to an actor at the beginning of a phase of a step (from 1)."""

    actor: str
    step: int
    phase: str
    signal: int = signal.SIGKILL


@dataclass
class Struck:
    """A blow that was dealt: to which process, and which call it had not answered (None: it had nothing to do).

    `resumed` is the step at which the run began again, `lost_s` the seconds until it was in the same phase again.
    """

    blow: Blow
    pid: int
    call: str | None
    at: float = field(default_factory=time.monotonic)
    resumed: int | None = None
    lost_s: float | None = None


@dataclass
class Disturber:
    """Stands in for `RunRecorder.enter` of one run. A victim is stopped when the phase begins, so that it cannot get
    through it; when a call to it is under way, or there is none for a second, it gets its signal."""

    blows: Sequence[Blow]
    struck: list[Struck] = field(default_factory=list)
    pools: Mapping[str, Any] = field(default_factory=dict)
    _pending: list[threading.Thread] = field(default_factory=list)

    def enter(self, step: int, phase: str) -> None:
        """Deal the next blow that is due; each is dealt once."""
        self._note_return(step, phase)
        dealt = [id(struck.blow) for struck in self.struck]
        due = [blow for blow in self.blows if (blow.step, blow.phase) == (step, phase) and id(blow) not in dealt]
        if due:
            self._strike(due[0])

    def _note_return(self, step: int, phase: str) -> None:
        """The run goes on: from which step, and when it is where it was."""
        if not self.struck or self.struck[-1].lost_s is not None:
            return
        last = self.struck[-1]
        if last.resumed is None and phase == "rollout":
            last.resumed = step
        if (step, phase) == (last.blow.step, last.blow.phase) or step > last.blow.step:
            last.lost_s = time.monotonic() - last.at

    def _strike(self, blow: Blow) -> None:
        role, _, rank = blow.actor.rstrip("]").rpartition("[")
        pid, _ = self.pools[role]._places[int(rank)]
        struck = Struck(blow, pid, None)
        self.struck.append(struck)
        os.kill(pid, signal.SIGSTOP)
        if blow.signal == signal.SIGSTOP:
            return
        thread = threading.Thread(target=self._finish, args=(struck, role))
        thread.start()
        self._pending.append(thread)

    def _finish(self, struck: Struck, role: str) -> None:
        began = time.monotonic()
        while time.monotonic() - began < SEEN_S:
            calls = {each.actor: each.method for each in self.pools[role].under_way()}
            struck.call = calls.get(struck.blow.actor)
            if struck.call is not None or time.monotonic() - began > 1.0:
                break
            time.sleep(0.005)
        os.kill(struck.pid, struck.blow.signal)

    def join(self) -> None:
        for thread in self._pending:
            thread.join()
