"""A file of JSON lines that grows, from the side of who reads it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.metrics import parsed

Take = Callable[[dict[str, Any]], None]
_POLL_S = 0.2


@contextmanager
def tailing(path: Path, position: int, take: Take, on_failure: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hand over each whole line that is there behind a byte position while the block runs, and what is left when it
    ends. What `take` raises is raised at the end of the block, after `on_failure` was called at once; a line that is
    damaged is passed over."""
    stop = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix=f"tail {path.name}") as beside:
        following = beside.submit(_follow, path, position, take, stop)
        following.add_done_callback(lambda ended: on_failure() if ended.exception() is not None else None)
        try:
            yield
        finally:
            stop.set()
    following.result()


def _follow(path: Path, position: int, take: Take, stop: threading.Event) -> None:
    ended = False
    while not ended:
        ended = stop.wait(_POLL_S)
        with open(path, "rb") as stream:
            stream.seek(position)
            for line in stream:
                if not line.endswith(b"\n"):
                    break
                position += len(line)
                row = parsed(line)
                if isinstance(row, dict):
                    take(row)
