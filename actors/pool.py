"""Ranks of one role as Ray actors, and the handles that their work returns."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef
from ray.exceptions import RayActorError, RayTaskError

from actors.placement import Placement
from rlhf.at_hand import variables
from rlhf.errors import UnreachableError, UserError
from rlhf.metrics import Metrics, merge
from rlhf.ppo.at_hand import STEP
from rlhf.ppo.config import Resources

T = TypeVar("T")
_NAMES_FREE_S = 20.0
_PEERS_S = 30.0  # Ray holds a node alive for about 15 s after its death


class Pending(Generic[T]):
    """A handle: refs whose results `combine` joins. Raises the first error as soon as it happens."""

    def __init__(self, refs: Sequence[ObjectRef], combine: Callable[[list], T]) -> None:
        self._refs = list(refs)
        self._combine = combine

    def get(self) -> T:
        waiting = list(self._refs)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            try:
                ray.get(done)
            except RayTaskError as error:
                _raise_if_lost(waiting, error)
                raise
        return self._combine(ray.get(self._refs))


def _raise_if_lost(waiting: Sequence[ObjectRef], error: RayTaskError) -> None:
    """A rank whose peer died, in a collective or before they met, says so in words of its own, and first: the death is
    the cause."""
    if isinstance(error.cause, UserError) and not isinstance(error.cause, UnreachableError):
        return
    left, deadline = list(waiting), time.monotonic() + _PEERS_S
    while left:
        done, left = ray.wait(left, num_returns=1, timeout=max(0.0, deadline - time.monotonic()), fetch_local=False)
        if not done:
            return
        try:
            ray.get(done)
        except RayActorError as lost:
            raise lost from error
        except RayTaskError:
            continue


class RemoteTensors:
    """Tensors of a rollout, one part per rank; only the small receipts ever reach the driver."""

    def __init__(self, parts: list[ObjectRef], receipts: list[ObjectRef]) -> None:
        self.parts = parts
        self.receipts = receipts

    def get(self) -> None:
        return Pending(self.receipts, lambda _: None).get()


@dataclass(frozen=True)
class UnderWay:
    """A call that an actor has not answered; pid and node are those of its process, None where they are unknown."""

    actor: str
    method: str
    handle: Any
    pid: int | None
    node: str | None

    def end(self) -> None:
        """End the actor's process; whoever waits for it is told."""
        ray.kill(self.handle)


class Pool:
    """The actors of one role. Large results stay in the object store; callers hold references."""

    def __init__(self, role: str, actors: list[Any]) -> None:
        self.role = role
        self.actors = actors
        self._last: dict[int, tuple[ObjectRef, str]] = {}
        self._places: dict[int, tuple[int, str]] = {}

    @classmethod
    def start(
        cls, role: str, actor_class: type, placement: Placement, resources: Resources, arguments: Iterable[Any],
        environment: dict[str, str] | None = None,
    ) -> Pool:
        """Create the actors of a role; they start in parallel and are named `role[rank]`."""
        actors = []
        variables = {**process_environment(resources), **(environment or {})}
        for rank in range(resources.ranks):
            remote = ray.remote(actor_class).options(
                name=f"{role}[{rank}]", runtime_env={"env_vars": variables}, **placement.options(role, rank)
            )
            actors.append(remote.remote(rank, *arguments))
        return cls(role, actors)

    def ask(self, rank: int, method: str, *arguments: Any, results: int = 1) -> list[ObjectRef]:
        """Call a method on one rank; one ref per result. The last of several is small: it is kept to see the end by."""
        named = self.actors[rank].at.options(num_returns=results, name=f"{self.role}[{rank}].{method}")
        answer = named.remote(STEP.get(), method, *arguments)
        refs = [answer] if results == 1 else list(answer)
        self._last[rank] = (refs[-1], method)
        return refs

    def call(self, method: str, *arguments: Any) -> list[ObjectRef]:
        """Call a method on every rank; one ref each."""
        return [self.ask(rank, method, *arguments)[0] for rank in range(len(self.actors))]

    def call_tensors(self, method: str, *arguments: Any) -> RemoteTensors:
        """Call a method that returns (tensor, receipt) on every rank."""
        pairs = [self.ask(rank, method, *arguments, results=2) for rank in range(len(self.actors))]
        return RemoteTensors([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def locate(self) -> None:
        """Learn where the processes run; all must be ready."""
        self._places = dict(enumerate(ray.get(self.call("place"))))

    def identities(self) -> dict[str, str]:
        """Ray's identity of every actor → its name."""
        return {actor._actor_id.hex(): f"{self.role}[{rank}]" for rank, actor in enumerate(self.actors)}

    def located(self) -> list[UnderWay]:
        """Every actor with its place; no call is said to be under way."""
        return [
            UnderWay(f"{self.role}[{rank}]", "nothing that the driver asked", self.actors[rank], *place)
            for rank, place in self._places.items()
        ]

    def under_way(self) -> list[UnderWay]:
        """The calls that are not answered, one per actor."""
        found = []
        for rank, (ref, method) in list(self._last.items()):
            done, _ = ray.wait([ref], timeout=0, fetch_local=False)
            if not done:
                place = self._places.get(rank, (None, None))
                found.append(UnderWay(f"{self.role}[{rank}]", method, self.actors[rank], *place))
        return found

    def call_metrics(self, method: str, *arguments: Any) -> Pending[Metrics]:
        """Call a method that returns metrics on every rank; the handle merges them."""
        return Pending(self.call(method, *arguments), merge)

    def call_all(self, method: str, *arguments: Any) -> Pending[None]:
        """Call a method that returns nothing on every rank."""
        return Pending(self.call(method, *arguments), lambda _: None)

    def stop(self) -> None:
        """End the processes. Returns when their names are free."""
        for actor in self.actors:
            ray.kill(actor)
        deadline = time.monotonic() + _NAMES_FREE_S
        while time.monotonic() < deadline and any(_is_known(f"{self.role}[{k}]") for k in range(len(self.actors))):
            time.sleep(0.05)


LookAfter = Callable[[Mapping[str, Pool]], None]
"""Is given the actors of a run by role, as soon as they are being started."""


def _is_known(name: str) -> bool:
    try:
        ray.get_actor(name)
    except ValueError:
        return False
    return True


def process_environment(resources: Resources) -> dict[str, str]:
    """Threads and devices of a process, and whose it is. One that reserves no GPU sees none: it would take a part of
    another role's."""
    devices = {} if resources.gpus else {"CUDA_VISIBLE_DEVICES": ""}
    return {**thread_environment(resources), **devices, **variables()}


def thread_environment(resources: Resources) -> dict[str, str]:
    """Threads of a process, and passive waiting: on a shared machine a spinning thread takes another role's core."""
    return {
        "OMP_NUM_THREADS": str(resources.torch_threads),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }
