"""Rewards that a rule decides: 1 or 0, from the response and the prompt's task alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rlhf.errors import DataError
from rlhf.numbers import last_number, number_of
from rlhf.rewards.config import PatternMatch
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.tasks import gold_score, is_checkable


@dataclass(frozen=True)
class Rule:
    """A decision as a scorer of samples."""

    decide: Callable[[RewardSample], bool | Failure]

    def __call__(self, samples: Sequence[RewardSample]) -> list[float | Failure]:
        decisions = [self.decide(sample) for sample in samples]
        return [decision if isinstance(decision, Failure) else float(decision) for decision in decisions]

    def close(self) -> None: ...


def exact_match(sample: RewardSample) -> bool | Failure:
    """Whether the response is the answer."""
    answer = _answer(sample)
    return answer if isinstance(answer, Failure) else sample.response.strip() == answer.strip()


def number_match(sample: RewardSample) -> bool | Failure:
    """Whether the last number in the response is the answer's last; thousands may be grouped by commas."""
    answer = _answer(sample)
    if isinstance(answer, Failure):
        return answer
    wanted = number_of((sample.task or {})["answer"])
    if wanted is None:
        return Failure(f"its task.answer {answer!r:.80} holds no number")
    return last_number(sample.response) == wanted


def valid_json(sample: RewardSample) -> bool:
    """Whether the response is JSON as RFC 8259 has it: no NaN, no Infinity."""
    try:
        json.loads(sample.response, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return False
    return True


def matches(config: PatternMatch) -> Callable[[RewardSample], bool]:
    """Whether the pattern occurs in the response."""
    pattern = re.compile(config.pattern, re.DOTALL)
    return lambda sample: pattern.search(sample.response) is not None


def task_check(sample: RewardSample) -> bool | Failure:
    """Whether the gold checker accepts the response."""
    if sample.task is None or not is_checkable(sample.task):
        return Failure("its prompt has no task of the checker")
    try:
        return gold_score(sample.task, sample.response) == 1.0
    except DataError as error:
        return Failure(str(error))


def _answer(sample: RewardSample) -> str | Failure:
    answer = (sample.task or {}).get("answer")
    return str(answer) if isinstance(answer, str | int | float) else Failure("its prompt has no task.answer")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
