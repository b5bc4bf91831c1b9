"""The run that a process works for. It is shown to people; nothing else depends on it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

TAGS = ("run", "stage")
_VARIABLES = ("RLHF_RUN", "RLHF_STAGE")


@dataclass(frozen=True)
class Run:
    """What tells runs apart on a dashboard; `name`: the last two names of where the stage publishes."""

    name: str
    stage: str

    @classmethod
    def of(cls, output: Path, stage: str) -> Run:
        return cls("/".join(output.absolute().parts[-2:]), stage)

    @classmethod
    def of_this_process(cls) -> Run:
        """The run that started this process; empty where none did."""
        return cls(*(os.environ.get(variable, "") for variable in _VARIABLES))

    @property
    def tags(self) -> dict[str, str]:
        return dict(zip(TAGS, (self.name, self.stage), strict=True))


_NONE = Run("", "")
_AT_HAND: ContextVar[Run] = ContextVar("run at hand", default=_NONE)


@contextmanager
def working_for(run: Run) -> Iterator[None]:
    """The driver works for this run inside the block."""
    token = _AT_HAND.set(run)
    try:
        yield
    finally:
        _AT_HAND.reset(token)


def variables() -> dict[str, str]:
    """The environment of a process that the driver starts for the run at hand, by which it knows that run."""
    run = _AT_HAND.get()
    return dict(zip(_VARIABLES, (run.name, run.stage), strict=True))
