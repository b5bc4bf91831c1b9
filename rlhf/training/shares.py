"""Checkpoints of Ray Train: what each worker wrote is listed with its SHA-256 before it is handed over.

Some of it are pickles (DeepSpeed's states, generators), so a checkpoint is read only when every file of it is one that
a worker of this run has listed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlhf.artifacts import digest, file_digest, json_text, write_json
from rlhf.errors import RunError
from rlhf.sound import SoundDirectory

SHARES = "share_*.json"


def seal_share(directory: Path, rank: int, ranks: int) -> None:
    """List what worker `rank` of `ranks` has written below a directory, in the directory."""
    files = {str(path.relative_to(directory)): file_digest(path) for path in _files(directory)}
    write_json(directory / f"share_{rank:05d}.json", _signed({"ranks": ranks, "files": files}))


def require_as_sealed(directory: Path) -> SoundDirectory:
    """The directory. Raises RunError for one that is not, byte for byte, what the workers have listed; it is only
    hashed."""
    found = damage(directory)
    if found is not None:
        raise RunError(f"{directory} is damaged: {found}; the same command goes on from the checkpoint before it")
    return SoundDirectory(directory)


def damage(directory: Path) -> str | None:
    """The first thing that is not as the workers wrote it; None: nothing."""
    try:
        shares = {path: path.read_text(encoding="utf-8") for path in sorted(directory.glob(SHARES))}
        read = [json.loads(text) for text in shares.values()]
        for (path, text), share in zip(shares.items(), read, strict=True):
            written = {"ranks": share["ranks"], "files": share["files"]}
            if text not in (json_text(_signed(written)), json_text(written)):  # earlier versions did not sign
                return f"{path.name} has changed since it was written"
        return _damage(directory, read)
    except (ValueError, KeyError, TypeError, AttributeError):
        return "a list of a worker's files cannot be read"
    except OSError as error:
        return f"{error.filename or directory} cannot be read ({error.strerror})"


def _signed(share: Mapping[str, Any]) -> dict[str, Any]:
    """With its own SHA-256: a list of hashes is no use where it may have changed itself."""
    return {**share, "sha256": digest(share)}


def _damage(directory: Path, shares: list[Mapping[str, Any]]) -> str | None:
    ranks = {share["ranks"] for share in shares} or {1}
    if ranks != {len(shares)}:
        return f"{len(shares)} of {max(ranks)} workers have listed their files"
    listed: dict[str, set[str]] = {}
    for share in shares:
        for name, hashed in share["files"].items():
            listed.setdefault(name, set()).add(hashed)
    found = {str(path.relative_to(directory)): path for path in _files(directory)}
    for name in sorted(listed.keys() | found.keys()):
        if name not in found:
            return f"{name} is missing"
        if name not in listed:
            return f"{name} was not there when it was written"
        if found[name].is_symlink() or file_digest(found[name]) not in listed[name]:
            return f"{name} has changed since it was written"
    return None


def _files(directory: Path) -> list[Path]:
    """Everything below a directory but directories and the lists; a link to a directory counts as a file."""
    paths = sorted(directory.rglob("*"))
    lists = {*directory.glob(SHARES)}
    return [path for path in paths if path not in lists and (path.is_symlink() or not path.is_dir())]
