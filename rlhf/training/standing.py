"""Where each worker of a Ray Train job stands, for whoever has to say where it was lost; and the end of one that does
not go on.

A process that is stopped as a whole is found by Ray Train, for its health check is not answered. One that only waits
answers that; it has to notice by itself. Workers wait for each other, so none goes on where one does not: all of them
notice, and it was the one that has made the fewest passes.
"""

from __future__ import annotations

import json
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

_PATIENCE = 1.25  # of the deadline: whoever waits for a stopped process leaves it to Ray Train to find that one first
_LOOKS_PER_DEADLINE = 10
_OTHERS_LOOKS = 1.5
_WORDS = {"start": "its start", "update": "the update of step {}", "validation": "the validation after step {}",
          "checkpoint": "the checkpoint of step {}"}


@dataclass(frozen=True)
class Position:
    """`phase` of a step, in the process `pid`; of a worker that ended because it did not go on there, the seconds that
    it stood, and the passes that it had made."""

    phase: str
    step: int
    pid: int
    stood_s: float | None = None
    passes: int = 0

    def __str__(self) -> str:
        return _WORDS[self.phase].format(self.step)


def furthest_behind(directory: Path) -> Path | None:
    """The file of the worker that did not go on while the others waited for it; None: none has ended for that."""
    found = {path: position for path in sorted(directory.glob("[0-9]*.json")) if (position := position_in(path))}
    stood = [path for path, position in found.items() if position.stood_s is not None]
    return min(stood, key=lambda path: found[path].passes, default=None)


def position_in(path: Path) -> Position | None:
    """None: none was written there."""
    try:
        return Position(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def standing_pids(directory: Path) -> set[int]:
    """The processes of all workers that have said where they stand."""
    found = map(position_in, directory.glob("[0-9]*.json"))
    return {position.pid for position in found if position is not None}


class Standing:
    """A worker's position, kept in a file; it is told that the work goes on at least once in `deadline_s`."""

    def __init__(self, path: Path, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._deadline_s, self._clock = path, deadline_s, clock
        self._position, self._since, self._passes = Position("start", 0, os.getpid()), clock(), 0
        self._write(self._position)

    def enter(self, phase: str, step: int) -> None:
        self._since = self._clock() if phase != "checkpoint" else math.inf
        position = Position(phase, step, os.getpid())
        if position != self._position:
            self._position = position
            self._write(position)

    def goes_on(self) -> None:
        """Another pass through the model begins."""
        self._since = self._clock()
        self._passes += 1

    @contextmanager
    def watched(self, end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> Iterator[None]:
        """Inside the block the process ends when it has not gone on for too long; its file then says so. Not while a
        checkpoint is written: storage takes as long as it takes, also that of the rank that the others wait for."""
        over, self._since = threading.Event(), self._clock()
        thread = threading.Thread(target=self._watch, args=(over, end), name="standing", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _watch(self, over: threading.Event, end: Callable[[], None]) -> None:
        while not over.wait(self._deadline_s / _LOOKS_PER_DEADLINE):
            stood = self._clock() - self._since
            if stood > _PATIENCE * self._deadline_s:
                self._write(replace(self._position, stood_s=stood, passes=self._passes))
                over.wait(_OTHERS_LOOKS * self._deadline_s / _LOOKS_PER_DEADLINE)  # they write where they stand, too
                end()
                return

    def _write(self, position: Position) -> None:
        """It only informs: nothing depends on it, and it need not survive the machine."""
        draft = self._path.with_name(f".{self._path.name}")
        with suppress(OSError):
            draft.write_text(json.dumps(asdict(position)), encoding="utf-8")
            draft.replace(self._path)


class Positioned:
    """Gives a transformers Trainer a `standing`, told of each phase and of each pass through the model.

    An update begins with the reading of its examples.
    """

    standing: Standing
    state: Any

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("update", self.state.global_step + 1)
        return super().get_batch_samples(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("validation", self.state.global_step)
        return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("checkpoint", self.state.global_step)
        return super()._save_checkpoint(*args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        self.standing.goes_on()
        return super()._prepare_inputs(inputs)
