"""Where each worker of a Ray Train job stands, for whoever has to say where it was lost; and the end of one that does
not go on.

A process that is stopped as a whole is found by Ray Train, for its health check is not answered. One that only waits
answers that; it has to notice by itself.
"""

from __future__ import annotations

import json
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
_WORDS = {"start": "its start", "update": "the update of step {}", "validation": "the validation after step {}",
          "checkpoint": "the checkpoint of step {}"}


@dataclass(frozen=True)
class Position:
    """`phase` of a step; `stood_s`: the seconds after which the worker was ended, because it did not go on there."""

    phase: str
    step: int
    stood_s: float | None = None

    def __str__(self) -> str:
        return _WORDS[self.phase].format(self.step)


def position_in(path: Path) -> Position | None:
    """None: none was written there."""
    try:
        return Position(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class Standing:
    """A worker's position, kept in a file; it is told that the work goes on at least once in `deadline_s`."""

    def __init__(self, path: Path, deadline_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._deadline_s, self._clock = path, deadline_s, clock
        self._position, self._since = Position("start", 0), clock()
        self._write(self._position)

    def enter(self, phase: str, step: int) -> None:
        self.goes_on()
        position = Position(phase, step)
        if position != self._position:
            self._position = position
            self._write(position)

    def goes_on(self) -> None:
        self._since = self._clock()

    @contextmanager
    def watched(self, end: Callable[[], None] = lambda: os.kill(os.getpid(), signal.SIGKILL)) -> Iterator[None]:
        """Inside the block the process ends when it has not gone on for too long; its file then says so."""
        over = threading.Event()
        self.goes_on()
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
                self._write(replace(self._position, stood_s=stood))
                end()
                return

    def _write(self, position: Position) -> None:
        """It only informs: nothing depends on it, and it need not survive the machine."""
        draft = self._path.with_name(f".{self._path.name}")
        with suppress(OSError):
            draft.write_text(json.dumps(asdict(position)), encoding="utf-8")
            draft.replace(self._path)


class Positioned:
    """Gives a transformers Trainer a `standing`, told of each phase and of each pass through the model."""

    standing: Standing
    state: Any

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("update", self.state.global_step + 1)
        return super().training_step(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("validation", self.state.global_step)
        return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> Any:
        self.standing.enter("checkpoint", self.state.global_step)
        return super()._save_checkpoint(*args, **kwargs)

    def _prepare_inputs(self, inputs: Any) -> Any:
        self.standing.goes_on()
        return super()._prepare_inputs(inputs)
