"""How long tests wait. A test passes or fails by what it sees, not by a clock: the limit only ends what hangs."""

from __future__ import annotations

import time
from collections.abc import Callable

HANG_S = 1800.0  # far above what anything here takes, also on a machine three times as slow and busy


def wait_until(
    condition: Callable[[], object], alive: Callable[[], bool] = lambda: True, what: str = "what was waited for",
    pause_s: float = 0.1,
) -> None:
    """Return as soon as the condition holds. Fails when what makes it hold has ended, or hangs."""
    end = time.monotonic() + HANG_S
    while not condition():
        assert alive(), f"{what}: it ended before"
        assert time.monotonic() < end, f"{what}: not within {HANG_S:.0f} s"
        time.sleep(pause_s)
