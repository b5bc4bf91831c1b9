"""Runs in a process of its own: scores one sample after the other with the user's function."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rlhf.guests.hosting import arrive, say
from rlhf.rewards.sample import Failure, RewardSample, checked


def main() -> None:
    stream, function = arrive()
    for line in stream:
        answer = score(function, RewardSample(**json.loads(line)))
        say(stream, {"failed": answer.reason} if isinstance(answer, Failure) else {"score": answer})


def score(function: Callable[[RewardSample], Any], sample: RewardSample) -> float | Failure:
    """What the function says of a sample."""
    try:
        return checked(function(sample))
    except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and each sample fails alone
        return Failure(f"raised {type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
