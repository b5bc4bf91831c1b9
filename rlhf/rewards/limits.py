"""What the whole of a reward's config means for each of its parts."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rlhf.errors import ConfigError
from rlhf.rewards.config import HttpReward, RewardModelConfig
from rlhf.rewards.hosts import VARIABLE, AllowedHost, operators_list


@dataclass(frozen=True)
class Limits:
    """`hidden`: environment variables that hold tokens; `hosts`: the lists that each must allow a service."""

    hidden: frozenset[str] = frozenset()
    hosts: tuple[tuple[str, ...], ...] = ()


UNLIMITED = Limits()


def limits_of(config: RewardModelConfig) -> Limits:
    """Of a config, in this process's environment. Raises ConfigError for a list of the operator's that is none."""
    tokens = {part.token_env for part in config.parts.values() if isinstance(part, HttpReward)}
    lists = [config.allowed_hosts, operators_list(os.environ.get(VARIABLE))]
    try:
        for entry in lists[1] or ():
            AllowedHost.parse(entry)
    except ValueError as error:
        raise ConfigError(f"environment variable {VARIABLE}: {error}") from None
    return Limits(frozenset(tokens - {None}), tuple(tuple(each) for each in lists if each is not None))
