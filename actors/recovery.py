"""What it means that an error leaves the loop: a lost process, which a run survives, or anything else, which it does
not."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from actors.errors import users_error
from actors.out_of_memory import require_memory_left, savings
from actors.pool import LookAfter, Pool
from actors.room import await_room
from actors.watchdog import Verdict, Watchdog
from rlhf.errors import ResourceError, RunError
from rlhf.full_disk import full_store
from rlhf.interfaces import Position
from rlhf.roles import Resources
from rlhf.stage import ActorStageConfig

T = TypeVar("T")
Named = Callable[[str], str | None]

_LOST = (
    RayActorError, ActorUnavailableError, NodeDiedError, ObjectLostError, OwnerDiedError, WorkerCrashedError,
    GetTimeoutError,
)
_NAME = re.compile(r"^\s*name: (\S+)", re.MULTILINE)
_IDENTITY = re.compile(r"\b[0-9a-f]{32}\b")  # Ray names some lost actors by it alone
_DETAIL = "Worker exit detail: "  # before it stands in more words that the process has ended
_UNNAMED = "an actor"
_TAKE_MEMORY = {"policy", "critic", "reference", "rollout"}  # roles whose settings say how much
_NO_PROGRESS = 3  # losses in a row at one step, of whatever actors, after which a run gives up


@dataclass(frozen=True)
class Loss:
    """An actor that was lost, and where the run stood."""

    who: str
    position: Position
    reason: str
    hung: bool = False

    def __str__(self) -> str:
        return f"{self.who} was lost in {place(self.position)}: {self.reason}"

    def same_as(self, other: Loss) -> bool:
        place, known = (other.position.step, other.position.phase), self.who != _UNNAMED
        return known and self.who == other.who and (self.position.step, self.position.phase) == place


def place(position: Position) -> str:
    """A position in words; work without steps has phases only."""
    return f"step {position.step}, {position.phase}" if position.step else position.phase


class Losses:
    """The losses of a run. Each is told, with what is done about it; one that comes again at the same step ends it."""

    def __init__(self, note: Callable[[str], None], remedy: str, config: ActorStageConfig) -> None:
        self.note, self.remedy, self.config = note, remedy, config
        self._known: list[Loss] = []

    def survive(
        self, error: RayError, position: Position, verdict: Verdict | None, named: Named = lambda identity: None
    ) -> None:
        """Returns when the run may start its roles again. Raises the error when it is no lost process, ResourceError
        when memory or room for objects ran out, and RunError when the run does not get past a step."""
        if verdict is None and users_error(error) is None:
            require_memory_left(error, place(position), self.config)
            _require_room_for_objects(error, position)
        loss = loss_of(error, position, verdict, named)
        if loss is None:
            raise error
        at_this_step = [known for known in self._known if _stage_of(known.position) == _stage_of(loss.position)]
        self._known.append(loss)
        if at_this_step and (at_this_step[-1].same_as(loss) or len(at_this_step) + 1 >= _NO_PROGRESS):
            raise RunError(
                f"{loss}; it is loss {len(at_this_step) + 1} at this step, so starting again does not help: look at "
                f"the log of {loss.who} in Ray's session directory{self._memory(loss)}; mend the cause, and run the "
                f"same command"
            )
        self.note(f"{loss}; {self.remedy}")

    def _memory(self, loss: Loss) -> str:
        """A kernel or a container that ends a process for its memory leaves no other word than its death."""
        role = loss.who.partition("[")[0]
        if role not in _TAKE_MEMORY or loss.hung:
            return ""
        return f"; where it was killed for want of memory, {savings(role, self.config)}"


def _require_room_for_objects(error: RayError, position: Position) -> None:
    """Raises ResourceError where Ray had no room for an object: it would have none again."""
    full = full_store(error)
    if full is not None:
        raise ResourceError(f"{place(position)}: {full}")


def names_in(pools: Mapping[str, Pool]) -> Named:
    """Names of actors by Ray's identity of them."""
    known = {identity: name for pool in list(pools.values()) for identity, name in pool.identities().items()}
    return known.get


def _stage_of(position: Position) -> int | str:
    """What has to be got past: a step, or, in work without steps, a phase."""
    return position.step or position.phase


def through_losses(
    attempt: Callable[[LookAfter], T], losses: Losses, roles: Mapping[str, Resources],
    position: Callable[[], Position], stop: Callable[[], bool] = lambda: False,
) -> T:
    """What `attempt` returns, made again after each loss that may be survived, as soon as there is room for the roles;
    it hands its actors to the function that it is given, and they are watched. `stop` ends the waiting."""
    config = losses.config
    while True:
        watchdog = Watchdog(config.deadline_s, position)
        try:
            with watchdog:
                return attempt(watchdog.look_after)
        except RayError as error:
            losses.survive(error, position(), watchdog.verdict, names_in(watchdog.pools))
            await_room(roles, config.replacement_s, losses.note, stop)


class Phase:
    """Where work without steps stands."""

    def __init__(self) -> None:
        self.position = Position(0, "start")

    def enter(self, phase: str) -> None:
        """A phase begins."""
        self.position = Position(0, phase, self.position.count + 1)


def loss_of(
    error: RayError, position: Position, verdict: Verdict | None, named: Named = lambda identity: None
) -> Loss | None:
    """None when the error is not that of a lost process."""
    if users_error(error) is not None:
        return None
    if verdict is not None:
        return Loss(" and ".join(sorted({each.actor for each in verdict.suspects})), position, str(verdict), hung=True)
    while isinstance(error, RayTaskError) and isinstance(error.cause, RayError):
        error = error.cause  # of a task whose argument the lost process was to make
    if not isinstance(error, _LOST):
        return None
    if isinstance(error, RayActorError) and getattr(error, "actor_init_failed", False):
        return None
    text = str(error)
    found, identity = _NAME.search(text), _IDENTITY.search(text)
    who = found[1] if found else named(identity[0]) if identity else None
    return Loss(who or _UNNAMED, position, _reason(text))


def _reason(text: str) -> str:
    """The line of Ray's that says how it ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "exit" in line.lower() or "node" in line.lower() or "killed" in line.lower()]
    return (telling or lines or ["no reason given"])[-1].rpartition(_DETAIL)[2][:200]
