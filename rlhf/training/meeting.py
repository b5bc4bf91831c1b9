"""The workers of a Ray Train job meet in torch's process group, within a time.

Ray Train itself waits for them without end, and asks after their health only when they train.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from ray.exceptions import RayActorError
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend


@dataclass
class Meeting(TorchConfig):
    """`within_s`: how long workers may take until all are there. Those that take longer count as lost."""

    within_s: float = 1800.0

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _WithinTime


class _WithinTime(_TorchBackend):
    """In the process of Ray Train's controller."""

    def on_start(self, worker_group: Any, backend_config: Meeting) -> None:
        meeting = ThreadPoolExecutor(1, "meeting")
        try:
            meeting.submit(super().on_start, worker_group, backend_config).result(backend_config.within_s)
        except BaseException as error:
            # A group that counts as started is not cleaned up: its workers and their places would stay.
            worker_group._clear_state()
            if not isinstance(error, TimeoutError):
                raise
            raise RayActorError(error_msg=f"workers did not meet within {backend_config.within_s:g} s") from None
        finally:
            meeting.shutdown(wait=False)  # it ends when the workers do
