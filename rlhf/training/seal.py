"""Directories of which every byte is accounted for.

`seal` brings all files to disk, then writes `checkpoint.json` with their sizes and SHA-256 and whatever the caller
wants kept with them, and last `checkpoint.sha256`, the hash of that file. `damage` says what no longer agrees, and
`verified` gives what may be unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlhf.artifacts import sync, write_text
from rlhf.sound import SoundDirectory

MANIFEST, SEAL = "checkpoint.json", "checkpoint.sha256"
DAMAGED = "damaged_"  # before the name of one that was passed over: its own is for what can be gone on from
FORMAT = 1
"""Of what lies in a checkpoint, all of its files. Another number where this code could not go on from an older one:
`tests/golden` has a checkpoint of each number that it can."""
_THREADS = 8  # hashing lets other threads run


def seal(directory: Path, content: Mapping[str, Any]) -> None:
    """Make everything below `directory` durable, and list it beside `content`."""
    files = _files(directory)
    with ThreadPoolExecutor(_THREADS) as pool:
        entries = list(pool.map(_durable, files.values()))
    for folder in sorted((path for path in directory.rglob("*") if path.is_dir()), reverse=True):
        sync(folder)
    listed = {name: {"bytes": size, "sha256": found} for name, (size, found) in zip(files, entries, strict=True)}
    text = json.dumps({"format": FORMAT, **content, "files": listed}, indent=2, ensure_ascii=False) + "\n"
    write_text(directory / MANIFEST, text)
    write_text(directory / SEAL, hashlib.sha256(text.encode()).hexdigest() + "\n")
    sync(directory)


def contents(directory: Path) -> Mapping[str, Any]:
    """What was sealed, `files` among it. Raises ValueError, in words, where the list itself is damaged."""
    try:
        raw = (directory / MANIFEST).read_bytes()
        wanted = (directory / SEAL).read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"has no {Path(error.filename).name}") from None
    if wanted != (hashlib.sha256(raw).hexdigest() + "\n").encode():
        raise ValueError(f"{MANIFEST} and {SEAL} do not belong together")
    return json.loads(raw)


def foreign(directory: Path) -> str | None:
    """What another version of this code has written, of a directory that is not damaged; None: this one can read it."""
    found = contents(directory).get("format", 1)  # those before the number was written are of the first
    return None if found == FORMAT else f"is of checkpoint format {found!r}, and this version reads {FORMAT}"


def verified(directory: Path) -> SoundDirectory | str:
    """The directory, when every byte of it is as it was sealed; else the first thing that is not."""
    return damage(directory) or SoundDirectory(directory)


def damage(directory: Path) -> str | None:
    """The first thing that is not as it was sealed, after reading every byte; None: nothing."""
    try:
        return _damage(directory)
    except OSError as error:
        return f"{error.filename or directory} cannot be read ({error.strerror})"


def _damage(directory: Path) -> str | None:
    shallow = shallow_damage(directory)
    if shallow is not None:
        return shallow
    listed = contents(directory)["files"]
    with ThreadPoolExecutor(_THREADS) as pool:
        found = pool.map(lambda name: _digest(directory / name), listed)
        for name, digest in zip(listed, found, strict=True):
            if digest != listed[name]["sha256"]:
                return f"{name} has changed since it was written (its SHA-256 differs)"
    return None


def shallow_damage(directory: Path) -> str | None:
    """The same without reading the files: what is missing, has another size, or was put there later."""
    try:
        listed = contents(directory)["files"]
    except ValueError as error:
        return str(error)
    found = _files(directory)
    for name, entry in listed.items():
        if name not in found:
            return f"{name} is missing"
        if found[name].is_symlink():
            return f"{name} is a link, and a checkpoint holds files alone"
        size = found[name].stat().st_size
        if size != entry["bytes"]:
            return f"{name} has {size} of {entry['bytes']} bytes"
    added = found.keys() - listed.keys()
    return f"{min(added)} was not there when it was written" if added else None


def _files(directory: Path) -> dict[str, Path]:
    """Everything below a directory but the seal itself, by relative name; a link is listed, never followed."""
    paths = (path for path in sorted(directory.rglob("*")) if path.is_symlink() or not path.is_dir())
    found = {str(path.relative_to(directory)): path for path in paths}
    return {name: path for name, path in found.items() if name not in (MANIFEST, SEAL)}


def _durable(path: Path) -> tuple[int, str]:
    """fsync a file; its size in bytes and its SHA-256."""
    with open(path, "rb") as stream:
        os.fsync(stream.fileno())
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def _digest(path: Path) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
