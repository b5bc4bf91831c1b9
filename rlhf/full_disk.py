"""Errors that come of a disk or an object store without room, however deep they are wrapped."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = (*map(os.strerror, _NUMBERS), "PytorchStreamWriter failed writing")
_REMEDY = (
    "set cluster.object_store_gib higher (of a running cluster, object-store-memory of 'ray start' on its nodes), and "
    "run the same command"
)
_STORE = {  # by the name of Ray's error
    "ObjectStoreFullError": f"Ray's object store is full, in /dev/shm of a node; {_REMEDY}",
    "OutOfDiskError": (
        "Ray's object store is full, and so is the disk of its session directory, where it spills objects until 95% "
        f"are in use (/tmp/ray of a node, or below RAY_TMPDIR); free some there, or {_REMEDY}"
    ),
}
_TOLD = re.compile(rf"^ray\.exceptions\.({'|'.join(_STORE)}): ", re.MULTILINE)  # as a traceback has it


def where_full(error: BaseException | None) -> str | None:
    """The file that an error of a full disk is about, "while writing" where none is named; None for any other error.

    Ray wraps what was raised in an actor into an error of the same class without its errno, `cause` has it; other
    libraries put it into words of their own.
    """
    full = False
    for each in _causes(error):
        if isinstance(each, OSError) and each.errno in _NUMBERS:
            return str(each.filename or "while writing")
        full = full or any(words in str(each) for words in _WORDS)
    return "while writing" if full else None


def full_store(error: BaseException | None) -> str | None:
    """What to say of an error of Ray's object store without room; None for any other error."""
    for each in _causes(error):
        named = [kind.__name__ for kind in type(each).__mro__]
        for name in (*named, *_TOLD.findall(str(each))):
            if name in _STORE:
                return _STORE[name]
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, and what it was made of."""
    while error is not None:
        yield error
        error = getattr(error, "cause", None) or error.__cause__
