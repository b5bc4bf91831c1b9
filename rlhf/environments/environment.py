"""What an environment is to the platform: one object per episode, asked turn by turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlhf.batch import Prompt


@dataclass(frozen=True)
class Turn:
    """What an environment says to a response: what the policy reads next, what the response earned, and whether the
    episode is over (then nothing is read)."""

    observation: str
    reward: float
    done: bool


class Environment(Protocol):
    """One episode. Its methods are awaited, those of many episodes at a time, so they must not block."""

    async def reset(self, prompt: Prompt) -> None:
        """The episode that begins with this prompt; `prompt.task` holds what the data says of it."""

    async def step(self, response: str) -> Turn:
        """Answer the policy's response, special tokens left out."""
