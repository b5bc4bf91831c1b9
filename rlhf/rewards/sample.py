"""What a reward that reads text is given, and what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

LARGEST = 1e30  # of a score: what sums and squares of float32 leave room for


@dataclass(frozen=True)
class RewardSample:
    """A prompt and one response to it.

    `messages` are the turns of the prompt, `prompt` their text; `finished` is False where the length limit cut the
    response; `source` and `task` stand as the data has them (`task` is None where it has none).
    """

    id: str
    prompt: str
    messages: Sequence[Mapping[str, str]]
    response: str
    finished: bool = True
    lang: str = ""
    source: str = ""
    task: Mapping[str, Any] | None = field(default=None, hash=False)

    def as_json(self) -> dict[str, Any]:
        """The sample as a service gets it."""
        return {**asdict(self), "messages": [dict(turn) for turn in self.messages]}


@dataclass(frozen=True)
class Failure:
    """Why a sample has no score: one clause."""

    reason: str


class SampleScorer(Protocol):
    """Scores samples one by one or together; a Failure stands where a score should be."""

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]: ...

    def close(self) -> None:
        """Give up what it holds; it scores nothing more."""


def checked(value: Any) -> float | Failure:
    """A score as it must be: a finite number. Truth values count as 1 and 0."""
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        return Failure(f"answered {value!r:.80}, which is no number")
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError) as error:
        return Failure(f"answered {value!r:.80}, which is no number: {error}")
    if not math.isfinite(number):
        return Failure(f"answered {number}, which is not finite")
    return number if abs(number) <= LARGEST else Failure(f"answered {number:g}, which is beyond {LARGEST:g}")
