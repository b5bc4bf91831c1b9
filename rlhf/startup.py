"""How a process starts faster: without looking for garbage among what it imports, which stays.

Python's collector looks at young objects every 700 that are made, and at all of them again and again while some
thousand modules are imported: a fifth of the time that a role's process takes to start. What is loaded at the end is
set aside for good (`gc.freeze`), so that later collections, those that engines ask for included, pass over it.
"""

from __future__ import annotations

import gc

_USUAL = gc.get_threshold()
_STARTING = (100_000, 20, 20)  # objects, and younger collections, that one collection waits for


def starting() -> None:
    """Collect seldom from now on."""
    gc.set_threshold(*_STARTING)


def started() -> None:
    """Collect as usual again, and never look at what has been loaded so far. Without effect after the first call."""
    if gc.get_threshold() == _STARTING:
        gc.freeze()
        gc.set_threshold(*_USUAL)
