"""Breaks processes of a PPO run in this process, each in a phase that it was seen to be in."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.limits import HANG_S

SEEN_S = 20.0  # until a call to a process that does not run any more is under way
_IDLE_S, _SETTLED_S = 1.0, 0.5  # without any call; without another one after it


@dataclass(frozen=True)
class Blow:
    """A signal to an actor at the beginning of a phase of a step (from 1; 0 in a stage without steps), once it has been
    asked for `call`; for None, once nothing more seems to be asked of it."""

    actor: str
    step: int
    phase: str
    signal: int = signal.SIGKILL
    call: str | None = None


@dataclass
class Struck:
    """A blow that was dealt: to which process, where the run `stood` then, and which call the process had not answered
    (None: it had nothing to do).

    `again`: the actors were started again; `resumed` is the step at which the run then began, `lost_s` the seconds from
    the blow until it was in the same phase again.
    """

    blow: Blow
    pid: int
    call: str | None
    stood: tuple[int, str] | None = None
    at: float = field(default_factory=time.monotonic)
    again: bool = False
    resumed: int | None = None
    lost_s: float | None = None

    @property
    def redone(self) -> int:
        """Steps that were made twice: those since the checkpoint, and the broken one where it had been whole."""
        assert self.resumed is not None
        return steps_redone(self.blow.step, self.blow.phase, self.resumed)


def steps_redone(step: int, phase: str, resumed: int) -> int:
    """Of a run that was struck in a phase of a step, and began again at step `resumed`."""
    return max(0, step - resumed + (phase == "checkpoint"))


@dataclass
class Disturber:
    """Is told of every phase of one run. A victim is stopped when the phase begins, so that it cannot get
    through it; when a call to it is under way, or there is none for a second, it gets its signal. Until then the phase
    does not end."""

    blows: Sequence[Blow]
    struck: list[Struck] = field(default_factory=list)
    pools: Mapping[str, Any] = field(default_factory=dict)
    _pending: list[threading.Thread] = field(default_factory=list)
    _stands: tuple[int, str] = (0, "start")

    def leave(self) -> None:
        """Returns when the blow has been dealt."""
        self.join()

    def enter(self, step: int, phase: str) -> None:
        """Deal the next blow that is due; each is dealt once."""
        self._stands = step, phase
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
        if phase == "start":
            last.again = True
        elif last.again and last.resumed is None:
            last.resumed = step
        same = (step, phase) == (last.blow.step, last.blow.phase)
        if last.resumed is not None and (same or step > last.blow.step):
            last.lost_s = time.monotonic() - last.at

    def _strike(self, blow: Blow) -> None:
        role, pid = blow.actor.partition("[")[0], process_of(self.pools, blow.actor)
        struck = Struck(blow, pid, None)
        self.struck.append(struck)
        os.kill(pid, signal.SIGSTOP)
        if blow.signal == signal.SIGSTOP:
            struck.stood = self._stands
            return
        thread = threading.Thread(target=self._finish, args=(struck, role))
        thread.start()
        self._pending.append(thread)

    def _finish(self, struck: Struck, role: str) -> None:
        if struck.blow.call is None:
            self._settle(struck, role)
        else:
            while struck.call != struck.blow.call and time.monotonic() - struck.at < HANG_S:
                struck.call = self._call(struck, role)
                time.sleep(0.005)
        struck.stood = self._stands
        os.kill(struck.pid, struck.blow.signal)

    def _settle(self, struck: Struck, role: str) -> None:
        """Returns once the actor has been asked for all that the driver asks it at a time, or for nothing."""
        began = asked = time.monotonic()
        while (now := time.monotonic()) - began < SEEN_S:
            call = self._call(struck, role)
            if call != struck.call:
                struck.call, asked = call, now
            if now - asked > (_IDLE_S if call is None else _SETTLED_S):
                break
            time.sleep(0.005)

    def _call(self, struck: Struck, role: str) -> str | None:
        """What the actor has been asked for last, and has not answered."""
        return {each.actor: each.method for each in self.pools[role].under_way()}.get(struck.blow.actor)

    def join(self) -> None:
        for thread in self._pending:
            thread.join()


def process_of(pools: Mapping[str, Any], actor: str) -> int:
    """The process of an actor, `role[rank]`."""
    role, _, rank = actor.rstrip("]").rpartition("[")
    if not pools[role].located():  # one that is still starting
        pools[role].locate()
    return pools[role]._places[int(rank)][0]
