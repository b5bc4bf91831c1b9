"""Errors that come of a disk without room, however deep they are wrapped."""

from __future__ import annotations

import errno
import os

_NUMBERS = (errno.ENOSPC, errno.EDQUOT)
_WORDS = (*map(os.strerror, _NUMBERS), "PytorchStreamWriter failed writing")


def where_full(error: BaseException | None) -> str | None:
    """The file that an error of a full disk is about, "while writing" where none is named; None for any other error.

    Ray wraps what was raised in an actor into an error of the same class without its errno, `cause` has it; other
    libraries put it into words of their own.
    """
    full = False
    while error is not None:
        if isinstance(error, OSError) and error.errno in _NUMBERS:
            return str(error.filename or "while writing")
        full = full or any(words in str(error) for words in _WORDS)
        error = getattr(error, "cause", None) or error.__cause__
    return "while writing" if full else None
