"""What it means that an error leaves the loop: a lost process, which a run survives, or anything else, which it does
not."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.errors import users_error
from actors.watchdog import Verdict
from rlhf.errors import ResourceError, RunError
from rlhf.interfaces import Position

_LOST = (
    RayActorError, ActorUnavailableError, NodeDiedError, ObjectLostError, OwnerDiedError, WorkerCrashedError,
    GetTimeoutError,
)
_NAME = re.compile(r"^\s*name: (\S+)", re.MULTILINE)
_UNNAMED = "an actor"
_NO_PROGRESS = 3  # losses in a row at one step, of whatever actors, after which a run gives up
_ACTOR = re.compile(r"\b((?:reward\.)?[A-Za-z_][\w-]*\[\d+\])")
_MEMORY = re.compile(r"out of memory|MemoryError|not enough memory|OutOfMemory|Cannot allocate memory", re.IGNORECASE)


@dataclass(frozen=True)
class Loss:
    """An actor that was lost, and where the run stood."""

    who: str
    position: Position
    reason: str

    def __str__(self) -> str:
        return f"{self.who} was lost in step {self.position.step}, {self.position.phase}: {self.reason}"

    def same_as(self, other: Loss) -> bool:
        place, known = (other.position.step, other.position.phase), self.who != _UNNAMED
        return known and self.who == other.who and (self.position.step, self.position.phase) == place


class Losses:
    """The losses of a run. Each is told; one that comes again at the same step ends it."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self.note = note
        self._known: list[Loss] = []

    def survive(self, error: RayError, position: Position, verdict: Verdict | None) -> None:
        """Returns when the run may start its roles again. Raises the error when it is no lost process, ResourceError
        when memory ran out, and RunError when the run does not get past a step."""
        loss = loss_of(error, position, verdict)
        if loss is None:
            raise error
        at_this_step = [known for known in self._known if known.position.step == loss.position.step]
        self._known.append(loss)
        if at_this_step and (at_this_step[-1].same_as(loss) or len(at_this_step) + 1 >= _NO_PROGRESS):
            raise RunError(
                f"{loss}; it is loss {len(at_this_step) + 1} at this step, so starting again does not help: look at "
                f"the log of {loss.who} in Ray's session directory, mend the cause, and run the same command"
            )
        self.note(f"{loss}; starting all roles again from the newest checkpoint")


def loss_of(error: RayError, position: Position, verdict: Verdict | None) -> Loss | None:
    """None when the error is not that of a lost process."""
    if users_error(error) is not None:
        return None
    if verdict is not None:
        return Loss(" and ".join(sorted({each.actor for each in verdict.suspects})), position, str(verdict))
    _require_memory(error, position)
    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
        error = error.cause  # of a task whose argument the lost process was to make
    if not isinstance(error, _LOST):
        return None
    if isinstance(error, RayActorError) and getattr(error, "actor_init_failed", False):
        return None
    text = str(error)
    found = _NAME.search(text)
    return Loss(found[1] if found else _UNNAMED, position, _reason(text))


def _require_memory(error: RayError, position: Position) -> None:
    """Raises ResourceError where a role ran out of memory: it would again."""
    cause: object = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if not isinstance(error, OutOfMemoryError) and not _MEMORY.search(f"{type(cause).__name__} {cause}"):
        return
    found = _ACTOR.findall(str(error))
    named = found[-1] if found else "a role"
    raise ResourceError(
        f"{named} ran out of memory in step {position.step}, {position.phase}; {_savings(named.partition('[')[0])}, or "
        f"give the role more ranks or a larger node"
    )


def _savings(role: str) -> str:
    """What to set lower for a role."""
    if role == "rollout":
        return "lower rollout.max_sequences, rollout.kv_cache_gib or rollout.gpu_memory_fraction"
    if role in ("policy", "critic"):
        return f"lower {role}.micro_batch_tokens, or set {role}.gradient_checkpointing or a higher {role}.zero.stage"
    if role == "reference" or role == "reward":
        return f"lower {role}.micro_batch_tokens"
    if role.startswith("reward."):
        return f"lower micro_batch_tokens of reward.parts.{role.removeprefix('reward.')}"
    return "lower rollout.prompts_per_step or rollout.max_new_tokens"


def _reason(text: str) -> str:
    """The line of Ray's that says how it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "node" in line.lower() or "killed" in line.lower()]
    return (telling or lines or ["no reason given"])[-1][:200]
