"""A reward function of the user's own, called sample by sample in a process without our secrets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rlhf.guests.function import score
from rlhf.guests.process import Errand, Guest, NoAnswer
from rlhf.loading import load_callable
from rlhf.rewards.config import FunctionReward
from rlhf.rewards.limits import Limits
from rlhf.rewards.sample import Failure, RewardSample, checked

MOST_ENDED = 3  # processes that may be lost over one batch: then the rest of it is not asked


@dataclass
class FunctionScorer:
    """Its process lives from batch to batch. One that does not answer in time is ended, and another takes its place."""

    config: FunctionReward
    errand: Errand
    guest: Guest | None = None

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        """What the function raises is the failure of that sample, and so is a call that takes too long."""
        scores: list[float | Failure] = []
        ended = 0
        for sample in samples:
            if ended == MOST_ENDED:
                scores.append(Failure(f"was not asked: {ended} calls before it did not come to their end"))
                continue
            try:
                scores.append(self._one(sample))
            except NoAnswer as error:
                self.close()
                ended += 1
                scores.append(Failure(f"the function {error}"))
        return scores

    def _one(self, sample: RewardSample) -> float | Failure:
        try:
            said = self.started().ask(sample.as_json(), self.config.timeout_s)
        except (TypeError, ValueError) as error:  # what JSON has no word for
            return Failure(f"its prompt's task cannot be given to the function: {error}")
        return Failure(said["failed"]) if "failed" in said else checked(said.get("score"))

    def started(self) -> Guest:
        """The process, which has imported the function. Raises ConfigError when it cannot be had."""
        if self.guest is None:
            self.guest = Guest(self.errand)
        return self.guest

    def close(self) -> None:
        """End the process."""
        if self.guest is not None:
            self.guest.close()
            self.guest = None


@dataclass(frozen=True)
class FunctionHere:
    """The function in this very process: a breakpoint() in it is reached like any of the actor's (`cluster.debug`)."""

    function: Callable[[RewardSample], Any]

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        return [score(self.function, sample) for sample in samples]

    def close(self) -> None:
        """There is no other process."""


def function_scorer(config: FunctionReward, key: str, limits: Limits) -> FunctionScorer | FunctionHere:
    """Raises ConfigError, with `key`, when the function cannot be had."""
    if os.environ.get("RAY_DEBUG") == "legacy":
        return FunctionHere(load_callable(config.function, config.file, f"{key}.function"))
    errand = Errand(
        "rlhf.guests.function", config.function, config.file, f"{key}.function", limits.hidden, config.pass_env
    )
    scorer = FunctionScorer(config, errand)
    scorer.started()
    return scorer
