"""A reward function of the user's own, called sample by sample."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.loading import load_callable
from rlhf.rewards.config import FunctionReward
from rlhf.rewards.sample import Failure, RewardSample, checked


@dataclass(frozen=True)
class CalledPerSample:
    """A function as a scorer; what it raises is the failure of that sample."""

    function: Callable[[RewardSample], Any]

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        return [self._one(sample) for sample in samples]

    def _one(self, sample: RewardSample) -> float | Failure:
        try:
            return checked(self.function(sample))
        except Exception as error:  # noqa: BLE001 - the user's code may raise anything, and each sample fails alone
            return Failure(f"raised {type(error).__name__}: {error}")


def function_scorer(config: FunctionReward, key: str) -> CalledPerSample:
    """Raises ConfigError, with `key`, when the function cannot be had."""
    return CalledPerSample(load_callable(config.function, config.file, f"{key}.function"))
