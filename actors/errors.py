"""Finds the user's error in what Ray raises, so that it is told as the sentence it was, not as Ray's traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from ray.exceptions import ActorDiedError, RayError, RayTaskError

from rlhf import errors
from rlhf.errors import UserError

_LAST_LINES = re.compile(rf"^{re.escape(errors.__name__)}\.(\w+): (.*)\Z", re.MULTILINE | re.DOTALL)


@contextmanager
def users_errors_unwrapped() -> Iterator[None]:
    """A UserError that was raised in a Ray process leaves the block as itself."""
    try:
        yield
    except RayError as error:
        found = users_error(error)
        if found is None:
            raise
        raise found from None


def users_error(error: RayError) -> UserError | None:
    """The UserError behind an error of Ray, or None.

    Of what a constructor raised Ray keeps only the text, a traceback: there its last lines are read.
    """
    cause: object = error
    while isinstance(cause, RayTaskError):
        cause = cause.cause
    if isinstance(cause, UserError):
        return cause
    match = _LAST_LINES.search(str(cause).rstrip()) if isinstance(cause, ActorDiedError) else None
    kind = getattr(errors, match[1], None) if match else None
    return kind(match[2]) if match and isinstance(kind, type) and issubclass(kind, UserError) else None
