"""Ranks of one role as Ray actors, and the handles that their work returns."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Generic, TypeVar

import ray
from ray import ObjectRef

from actors.placement import Placement
from rlhf.metrics import Metrics, merge
from rlhf.ppo.config import Resources

T = TypeVar("T")


class Pending(Generic[T]):
    """A handle: refs whose results `combine` joins. Raises the first error as soon as it happens."""

    def __init__(self, refs: Sequence[ObjectRef], combine: Callable[[list], T]) -> None:
        self._refs = list(refs)
        self._combine = combine

    def get(self) -> T:
        waiting = list(self._refs)
        while waiting:
            done, waiting = ray.wait(waiting, num_returns=1, fetch_local=False)
            ray.get(done)
        return self._combine(ray.get(self._refs))


class RemoteTensors:
    """Tensors of a rollout, one part per rank; only the small receipts ever reach the driver."""

    def __init__(self, parts: list[ObjectRef], receipts: list[ObjectRef]) -> None:
        self.parts = parts
        self.receipts = receipts

    def get(self) -> None:
        return Pending(self.receipts, lambda _: None).get()


class Pool:
    """The actors of one role. Large results stay in the object store; callers hold references."""

    def __init__(self, role: str, actors: list[Any]) -> None:
        self.role = role
        self.actors = actors

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

    def call(self, method: str, *arguments: Any) -> list[ObjectRef]:
        """Call a method on every rank; one ref each."""
        return [getattr(actor, method).remote(*arguments) for actor in self.actors]

    def call_tensors(self, method: str, *arguments: Any) -> RemoteTensors:
        """Call a method that returns (tensor, receipt) on every rank."""
        pairs = [getattr(actor, method).options(num_returns=2).remote(*arguments) for actor in self.actors]
        return RemoteTensors([pair[0] for pair in pairs], [pair[1] for pair in pairs])

    def call_metrics(self, method: str, *arguments: Any) -> Pending[Metrics]:
        """Call a method that returns metrics on every rank; the handle merges them."""
        return Pending(self.call(method, *arguments), merge)

    def call_all(self, method: str, *arguments: Any) -> Pending[None]:
        """Call a method that returns nothing on every rank."""
        return Pending(self.call(method, *arguments), lambda _: None)

    def stop(self) -> None:
        for actor in self.actors:
            ray.kill(actor)


def process_environment(resources: Resources) -> dict[str, str]:
    """Threads and devices of a process. One that reserves no GPU sees none: it would take a part of another role's."""
    return {**thread_environment(resources), **({} if resources.gpus else {"CUDA_VISIBLE_DEVICES": ""})}


def thread_environment(resources: Resources) -> dict[str, str]:
    """Threads of a process, and passive waiting: on a shared machine a spinning thread takes another role's core."""
    return {
        "OMP_NUM_THREADS": str(resources.torch_threads),
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
        "KMP_BLOCKTIME": os.environ.get("KMP_BLOCKTIME", "1"),
        "TOKENIZERS_PARALLELISM": "false",
    }
