"""The scorer of samples that a part of the config describes."""

from __future__ import annotations

from collections.abc import Callable

from rlhf.rewards import config as parts
from rlhf.rewards import rules
from rlhf.rewards.function import function_scorer
from rlhf.rewards.http import http_scorer
from rlhf.rewards.limits import UNLIMITED, Limits
from rlhf.rewards.sample import SampleScorer


def scorer_of(part: parts.TextReward, key: str, limits: Limits = UNLIMITED) -> SampleScorer:
    """Raises ConfigError, with `key`, when the part names what is not there or not allowed."""
    return _BUILDERS[type(part)](part, key, limits)


_BUILDERS: dict[type, Callable[..., SampleScorer]] = {
    parts.FunctionReward: function_scorer,
    parts.HttpReward: http_scorer,
    parts.ExactMatch: lambda part, key, limits: rules.Rule(rules.exact_match),
    parts.NumberMatch: lambda part, key, limits: rules.Rule(rules.number_match),
    parts.PatternMatch: lambda part, key, limits: rules.Rule(rules.matches(part)),
    parts.ValidJson: lambda part, key, limits: rules.Rule(rules.valid_json),
    parts.TaskCheck: lambda part, key, limits: rules.Rule(rules.task_check),
}
