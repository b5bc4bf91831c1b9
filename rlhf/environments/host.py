"""Runs in a process of its own: plays the environments of the user's code, many episodes at a time.

A line asks `reset` or `step` of an episode by number; `forget` drops some, `ping` shows that the loop turns, and
`cancel` gives up what an episode was asked. Answers carry the number that they were asked under.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any

from rlhf.batch import Prompt
from rlhf.environments.environment import Environment, Turn
from rlhf.guests.hosting import arrive, say
from rlhf.rewards.sample import Failure, checked


class Host:
    """Environments by the number of their episode, and what each is being asked."""

    def __init__(self, stream: Any, make: Callable[..., Environment], options: Mapping[str, Any]) -> None:
        self.stream, self.make, self.options = stream, make, options
        self.environments: dict[int, Environment] = {}
        self.asked: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Until the channel is closed."""
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, self.stream.readline):
            self._hear(json.loads(line))

    def _hear(self, message: Mapping[str, Any]) -> None:
        number = message.get("number", 0)
        if "forget" in message:
            for episode in message["forget"]:
                self.environments.pop(episode, None)
        elif "ping" in message:
            say(self.stream, {"number": number})
        elif "cancel" in message:
            task = self.asked.pop(message["cancel"], None)
            _ = task is not None and task.cancel()
        else:
            self.asked[number] = asyncio.ensure_future(self._answer(number, message))

    async def _answer(self, number: int, message: Mapping[str, Any]) -> None:
        try:
            answer = await self._ask(message)
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything
            answer = {"failed": f"raised {type(error).__name__}: {error}"}
        self.asked.pop(number, None)
        say(self.stream, {"number": number, **answer})

    async def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        episode = message["episode"]
        if "prompt" in message:
            self.environments[episode] = self.make(**self.options)
            await self.environments[episode].reset(prompt_of(message["prompt"]))
            return {}
        return described(await self.environments[episode].step(message["response"]))


def prompt_of(content: Mapping[str, Any]) -> Prompt:
    """A prompt as it was before it was JSON."""
    return Prompt(**{**content, "token_ids": tuple(content["token_ids"]), "messages": tuple(content["messages"])})


def described(turn: Any) -> dict[str, Any]:
    """A turn as an answer; what is none, in words."""
    if not isinstance(turn, Turn) or not isinstance(turn.observation, str):
        return {"failed": f"answered {turn!r:.80}, which is no Turn"}
    paid = checked(turn.reward)
    if isinstance(paid, Failure):
        return {"failed": f"{paid.reason} as its reward"}
    return {"turn": {"observation": turn.observation, "reward": paid, "done": bool(turn.done)}}


def main() -> None:
    stream, make = arrive()
    options = json.loads(stream.readline())
    try:
        make(**options)
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything
        return say(stream, {"refused": f"{type(error).__name__}: {error}"})
    say(stream, {"made": True})
    asyncio.run(Host(stream, make, options).run())


if __name__ == "__main__":
    main()
