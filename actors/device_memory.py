"""The memory of an actor's GPUs as one of Ray's metrics: on its node's metrics port, for Prometheus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import ray
from ray.util.metrics import Gauge

from rlhf.at_hand import TAGS, Run
from rlhf.nvml import Nvml
from rlhf.telemetry import Repeated

_LOGGER = logging.getLogger(__name__)


class DeviceMemory:
    """Tells again and again how much memory of an actor's devices is taken.

    It is that of the whole device: processes that the actor has started count, as the workers of an engine over several
    GPUs do, and so do other actors on the same device, each of which tells the same.
    """

    def __init__(
        self, run: Run, actor: Callable[[], str], devices: Sequence[str], used_bytes: Callable[[str], int | None]
    ) -> None:
        self._tags = run.tags
        self._actor = actor
        self._devices = devices
        self._used_bytes = used_bytes
        self._gauge = Gauge(
            "rlhf_gpu_memory_bytes", "memory of an actor's GPU that is taken, whoever takes it, bytes",
            (*TAGS, "actor", "device"),
        )
        self._repeated = Repeated(self._say)

    def _say(self) -> None:
        for device in self._devices:
            used = self._used_bytes(device)
            if used is not None:
                self._gauge.set(used, {**self._tags, "actor": self._actor(), "device": device})

    def close(self) -> None:
        """Tell it no more."""
        self._repeated.close()


def tell_device_memory(actor: Callable[[], str]) -> DeviceMemory | None:
    """In an actor: tell the memory of the GPUs that Ray gave it, for as long as it lives. None where it has none."""
    devices = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    if not devices:
        return None
    try:
        nvml = Nvml()
    except OSError as error:
        _LOGGER.warning("no metric of GPU memory: %s", error)
        return None
    return DeviceMemory(Run.of_this_process(), actor, devices, nvml.used_bytes)
