"""A meeting of the workers of a Ray Train job to which one of them does not come."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.training.meeting import Meeting


@dataclass
class StoppingMeeting(Meeting):
    """Worker 1 is stopped before its first meeting; `done` is a file that says so."""

    done: Path = Path()

    @property
    def backend_cls(self) -> type:
        class StopsOne(super().backend_cls):
            def on_start(self, worker_group: Any, backend_config: StoppingMeeting) -> None:
                if not backend_config.done.exists():
                    backend_config.done.touch()
                    os.kill(worker_group.execute_single(1, os.getpid), signal.SIGSTOP)
                super().on_start(worker_group, backend_config)

        return StopsOne
