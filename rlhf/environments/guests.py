"""Environments of the user's own, in a process without our secrets: one process, many episodes at a time."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from rlhf.batch import Prompt
from rlhf.environments.config import PythonEnvironment
from rlhf.environments.environment import Turn
from rlhf.errors import ConfigError
from rlhf.guests.process import ANSWER_BYTES, START_S, Errand, Guest, NoAnswer

PONG_S = 5.0  # within which a process that can go on does answer


class Failed(Exception):
    """An environment that gave no answer; the message goes on from 'environment: step'."""


class GuestEnvironments:
    """A process that plays episodes. One whose loop stands still is ended, and replaced before others begin."""

    def __init__(self, config: PythonEnvironment, hidden: Collection[str]) -> None:
        """Raises ConfigError when the factory cannot be had, or raises with the options."""
        self.config = config
        self.errand = Errand(
            "rlhf.environments.host", config.factory, config.file, "environment.factory", hidden, config.pass_env
        )
        self._guest = self._start()
        self._line: Line | None = None
        self._beginning = asyncio.Lock()
        self._numbers = itertools.count()

    def _start(self) -> Guest:
        guest = Guest(self.errand)
        try:
            said = guest.ask(self.config.options, START_S).get("refused")
        except NoAnswer as error:
            said = f"did not come to its end: its process {error}"
        if said is None:
            return guest
        guest.close()
        raise ConfigError(f"environment.factory: {self.config.factory} with environment.options raised {said}")

    @asynccontextmanager
    async def playing(self) -> AsyncIterator[Callable[[], GuestEpisode]]:
        """Makes episodes inside the block; what is left of a process that was ended gives way to a new one."""
        async with self._beginning:
            line = await self._open_line()
        numbers: list[int] = []

        def make() -> GuestEpisode:
            numbers.append(next(self._numbers))
            return GuestEpisode(numbers[-1], line)

        try:
            yield make
        finally:
            line.tell({"forget": numbers})

    async def _open_line(self) -> Line:
        if self._line is None or self._line.is_closed:
            if self._guest.process.poll() is not None:
                self._guest.close()
                self._guest = await asyncio.to_thread(self._start)
            self._line = await Line.open(self._guest)
        return self._line

    def close(self) -> None:
        """End the process."""
        self._guest.close()


class GuestEpisode:
    """One episode, as the platform sees it."""

    def __init__(self, number: int, line: Line) -> None:
        self.number, self.line = number, line

    async def reset(self, prompt: Prompt) -> None:
        await self.line.ask({"episode": self.number, "prompt": asdict(prompt)})

    async def step(self, response: str) -> Turn:
        return Turn(**(await self.line.ask({"episode": self.number, "response": response}))["turn"])


class Line:
    """Questions to a process and its answers, which come in any order."""

    def __init__(self, guest: Guest, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.guest, self.writer = guest, writer
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.numbers = itertools.count()
        self.is_closed = False
        self._listening = asyncio.ensure_future(self._listen(reader))
        self._looking: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, guest: Guest) -> Line:
        guest.socket.setblocking(False)
        return cls(guest, *await asyncio.open_unix_connection(sock=guest.socket, limit=ANSWER_BYTES))

    def tell(self, message: dict[str, Any]) -> None:
        """Send what needs no answer. Raises TypeError or ValueError for what JSON has no word for."""
        text = json.dumps(message)
        if not self.is_closed:
            self.writer.write(text.encode() + b"\n")

    async def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """The answer. Raises Failed; whoever stops waiting makes the process give the question up, or end."""
        number = next(self.numbers)
        if self.is_closed:
            raise Failed("was not asked: its process has ended")
        answer = self.waiting[number] = asyncio.get_running_loop().create_future()
        try:
            try:
                self.tell({**message, "number": number})
            except (TypeError, ValueError) as error:  # what JSON has no word for
                raise Failed(f"was not asked: its prompt's task cannot be given to it: {error}") from None
            said = await answer
        except asyncio.CancelledError:
            self._give_up(number)
            raise
        finally:
            self.waiting.pop(number, None)
        if "failed" in said:
            raise Failed(said["failed"])
        return said

    def _give_up(self, number: int) -> None:
        self.tell({"cancel": number})
        if not self.is_closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.ensure_future(self._end_if_still())

    async def _end_if_still(self) -> None:
        """End a process whose loop does not turn: some code in it does not let go."""
        number = next(self.numbers)
        pong = self.waiting[number] = asyncio.get_running_loop().create_future()
        self.tell({"ping": True, "number": number})
        done, _ = await asyncio.wait([pong], timeout=PONG_S)
        self.waiting.pop(number, None)
        if not done:
            self.guest.kill()

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                said = json.loads(line)
                answer = self.waiting.get(said["number"])
                if answer is not None and not answer.done():
                    answer.set_result(said)
        except (OSError, ValueError, TypeError, KeyError):
            pass  # a line that is none of our messages ends the process, too
        self.is_closed = True
        self.writer.close()
        ending = await asyncio.to_thread(self.guest.ending)
        for answer in self.waiting.values():
            if not answer.done():
                answer.set_result({"failed": f"gave no answer: its process ended ({ending})"})
