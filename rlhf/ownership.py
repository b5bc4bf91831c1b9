"""Whose a directory is: one run's at a time, and the config that lies in it is that run's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf.artifacts import write_bytes, write_text
from rlhf.config import ConfigT, dump
from rlhf.errors import RunError, UserError
from rlhf.events import EVENTS
from rlhf.lock import LOCK, locked
from rlhf.unfinished import CONFIG


@contextmanager
def own(directory: Path, note: Callable[[str], None]) -> Iterator[None]:
    """The directory for this process alone. A new one to which a refused run wrote nothing does not stay; it is
    removed while it is held, so never under another run."""
    is_new = not directory.exists()
    try:
        with locked(directory, note):
            try:
                yield
            except UserError:
                if is_new and {path.name for path in directory.iterdir()} <= {CONFIG, LOCK, EVENTS}:
                    shutil.rmtree(directory, ignore_errors=True)
                raise
    except OSError as error:
        if directory.is_dir():
            raise
        raise RunError(
            f"{directory}: not writable ({error.strerror}); give another output directory"
        ) from None


@contextmanager
def config_beside(directory: Path, config: ConfigT) -> Iterator[Callable[[], None]]:
    """The resolved config lies in the directory, unless the run is refused: that one is another run's.

    The function that is given says that the directory has become this run's: then the config stays, whatever comes.
    """
    path, done = directory / CONFIG, []
    before = path.read_bytes() if path.is_file() else None
    write_config(directory, config)
    try:
        yield lambda: done.append(True)
    except RunError:
        if before is not None and not done:
            write_bytes(path, before)
        raise


@contextmanager
def config_once_taken(directory: Path, config: ConfigT) -> Iterator[Callable[[], None]]:
    """The resolved config comes into the work directory when the run takes that over, which the function that is given
    says, or has come to its end. Until then the one there is that of the state beside it, whatever ends this process;
    where there is none, it comes at once."""
    if not (directory / CONFIG).is_file():
        write_config(directory, config)
    yield lambda: write_config(directory, config)
    write_config(directory, config)


def write_config(directory: Path, config: ConfigT) -> None:
    """Write the resolved config, every default spelled out. Raises RunError when the directory cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        write_text(directory / CONFIG, dump(config))
    except OSError as error:
        raise RunError(f"{directory}: not writable ({error.strerror}); give another output directory") from None
