"""Whose device memory it is: engines and the roles on the same GPUs take turns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from actors.pool import Pool
from rlhf.interfaces import Handle, WeightSync, gather


class SharedDevices:
    """The GPUs that engines which sleep share with other roles.

    A step goes: new weights are published (the engines take memory for weights only), the engines sample (the
    others leave as far as they can, and the engines take their KV cache), and then the others have the GPUs.
    """

    def __init__(self, engines: Pool, others: Sequence[Pool]) -> None:
        self.engines = engines
        self.others = list(others)

    @contextmanager
    def for_rollout(self) -> Iterator[None]:
        """The engines hold the devices inside the block, and give everything up after it."""
        self._others("leave_device")
        self.engines.call_all("wake", "kv_cache").get()
        yield
        self.engines.call_all("sleep").get()
        self._others("return_to_device")

    def make_room(self) -> None:
        """The others give back what they do not use; their weights stay."""
        self._others("release_unused_memory")

    def _others(self, method: str) -> None:
        gather(*(pool.call_all(method) for pool in self.others))


class SyncOnSharedDevices:
    """A weight sync into engines that sleep: room is made before they take memory for weights."""

    def __init__(self, sync: WeightSync, devices: SharedDevices) -> None:
        self.sync = sync
        self.devices = devices

    def publish(self, version: int) -> Handle[None]:
        """Every engine holds the policy's weights, under `version`, when the handle is ready."""
        self.devices.make_room()
        return self.sync.publish(version)


def start_asleep(engines: Pool) -> None:
    """Let engines measure their GPUs while they are alone on them, and give the GPUs up before other roles load."""
    engines.call_all("ready").get()
    engines.call_all("sleep").get()


