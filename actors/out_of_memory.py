"""What is said where a role ran out of memory: who and where, and what to set lower, with the values in force."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from rlhf.errors import ResourceError
from rlhf.memory import ran_out
from rlhf.ppo.config import PPOConfig, reward_role
from rlhf.stage import ActorStageConfig

_HIGHEST_ZERO = 3
_UNNAMED = "a role"
_RAISED = r"(?:ray::|\brepr=)({actor})"  # how the headers of Ray's tracebacks say whose they are
_KILLED = (  # the list of large processes after it has others, too
    r"Selected to kill: \((?:Task|Actor\([^()]*\)): [^()]*?\btask name=({actor})[^()]*?"
    r"\bactual memory used=([\d.]+)GB"
)


def require_memory_left(error: RayError, place: str, config: ActorStageConfig) -> None:
    """Raises ResourceError where a role ran out of memory: it would again."""
    cause: BaseException = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if not isinstance(cause, OutOfMemoryError) and not ran_out(cause):
        return
    named = _killed(cause, config) if isinstance(cause, OutOfMemoryError) else _raised(error, config)
    saving = savings(named[0].partition("[")[0], config)
    raise ResourceError(
        f"{' and '.join(named)} ran out of memory in {place}; {saving}, or give the role more ranks or a larger node"
    )


def _killed(error: OutOfMemoryError, config: ActorStageConfig) -> list[str]:
    """Whom Ray ended to free memory of a node, the largest first."""
    found = re.findall(_KILLED.format(actor=_actor(config)), str(error))
    return [name for name, _ in sorted(found, key=lambda each: float(each[1]), reverse=True)] or [_UNNAMED]


def _raised(error: RayError, config: ActorStageConfig) -> list[str]:
    """Whose traceback it is: where actors wait for each other, the last header is of the one that all wait for."""
    return re.findall(_RAISED.format(actor=_actor(config)), str(error))[-1:] or [_UNNAMED]


def _actor(config: ActorStageConfig) -> str:
    """A pattern of the names that actors of this run have, and of nothing else: tracebacks are full of rows[0]."""
    roles = {"rollout", "evaluation"}
    if isinstance(config, PPOConfig):
        roles = {*config.roles(), *map(reward_role, config.reward.contributions()), "environment", "experience"}
    return rf"(?:{'|'.join(map(re.escape, sorted(roles)))})\[\d+\]"


def savings(role: str, config: ActorStageConfig) -> str:
    """What to set lower for a role, and what else would take less."""
    lower = " or ".join(in_force(config, key) for key in _keys(role, config))
    others = " or ".join(_others(role, config))
    return f"lower {lower}" + (f", or set {others}" if others else "")


def _keys(role: str, config: ActorStageConfig) -> list[str]:
    """The settings that a role's memory grows with, by dotted key."""
    if role in ("policy", "critic"):
        keys = [f"{role}.micro_batch_tokens", f"{role}.graph_tokens"]
        return [key for key in keys if value_of(config, key) is not None]
    if role in ("reference", "reward"):
        return [f"{role}.micro_batch_tokens"]
    if role.startswith("reward."):
        return [f"reward.parts.{role.removeprefix('reward.')}.micro_batch_tokens"]
    if role == "evaluation":
        return ["micro_batch_tokens"]
    engine = "rollout" if hasattr(config, "rollout") else "sampler"
    if role == "rollout" or engine == "sampler":
        on_gpu = value_of(config, f"{engine}.resources.gpus")
        return [f"{engine}.max_sequences", f"{engine}.{'gpu_memory_fraction' if on_gpu else 'kv_cache_gib'}"]
    return ["rollout.prompts_per_step", "rollout.max_new_tokens"]


def _others(role: str, config: ActorStageConfig) -> Iterator[str]:
    """What a learner can do besides, where it does not yet."""
    if role not in ("policy", "critic"):
        return
    if not value_of(config, f"{role}.gradient_checkpointing"):
        yield f"{role}.gradient_checkpointing=true"
    if value_of(config, f"{role}.zero.stage") < _HIGHEST_ZERO:
        yield f"a higher {in_force(config, f'{role}.zero.stage')}"


def in_force(config: ActorStageConfig, key: str) -> str:
    """A key and its value."""
    return f"{key} ({value_of(config, key):,} now)"


def value_of(config: ActorStageConfig, key: str) -> Any:
    """What lies under a dotted key."""
    value: Any = config
    for name in key.split("."):
        value = value[name] if isinstance(value, Mapping) else getattr(value, name)
    return value
