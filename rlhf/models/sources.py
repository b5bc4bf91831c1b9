"""What is wrong with the files of a model or a tokenizer, in one sentence each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlhf.errors import ModelError


def is_local(source: str | Path) -> bool:
    """Whether a source lies on disk; otherwise it is a name on the hub."""
    return Path(source).exists()


def require_weights(missing: Iterable[str], source: str | Path) -> None:
    """Raises ModelError for weights that are missing: transformers fills them with random numbers, and goes on."""
    names = sorted(missing)
    if names:
        more = f" and {len(names) - 1} others" if len(names) > 1 else ""
        raise ModelError(f"{source}: its weights lack {names[0]}{more}; fetch or export the model again")


@contextmanager
def naming(source: str | Path, what: str) -> Iterator[None]:
    """Turn what transformers raises for a missing or damaged source into one sentence.

    It reads files that anyone wrote, and raises whatever comes of them: beside OSError and ValueError also
    AttributeError, TypeError, errors of its own, and plain `Exception`.
    """
    text = str(source)
    if not is_local(source) and (text.startswith((".", "/", "~")) or text.count("/") > 1):
        raise ModelError(f"{source}: no such directory; expected a {what}")
    try:
        _require_plain_files(source)
        yield
    except (MemoryError, ModelError):
        raise
    except Exception as error:
        raise ModelError(f"{source}: no usable {what} ({_first_line(error)})") from error


def _require_plain_files(source: str | Path) -> None:
    """A pipe or a device in a model's directory would be read for ever."""
    for path in Path(source).iterdir() if Path(source).is_dir() else ():
        if path.exists() and not (path.is_file() or path.is_dir()):
            raise ModelError(f"{path}: is neither a file nor a directory; a model is made of files")


def _first_line(error: Any) -> str:
    said = str(error).strip().split("\n")[0][:300]
    return said if isinstance(error, OSError | ValueError | RuntimeError) else f"{type(error).__name__}: {said}"
