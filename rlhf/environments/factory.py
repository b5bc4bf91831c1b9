"""The environments that a config describes, one per episode."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from rlhf.environments.calculator import CalculatorEpisode
from rlhf.environments.config import Calculator, PythonEnvironment
from rlhf.environments.environment import Environment
from rlhf.environments.guests import GuestEnvironments


class Environments(Protocol):
    """Plays episodes."""

    def playing(self) -> AbstractAsyncContextManager[Callable[[], Environment]]:
        """Makes the environments of episodes inside the block; those are over when it ends."""

    def close(self) -> None:
        """Nothing more is played."""


class Calculators:
    """Ours: it needs no process of its own."""

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[Callable[[], Environment]]:
        yield CalculatorEpisode

    def close(self) -> None: ...


def environments_of(config: Calculator | PythonEnvironment, hidden: Collection[str] = ()) -> Environments:
    """Raises ConfigError when the config names what is not there. `hidden`: variables that the user's code must not
    see."""
    return Calculators() if isinstance(config, Calculator) else GuestEnvironments(config, hidden)
