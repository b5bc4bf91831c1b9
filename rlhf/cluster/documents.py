"""The objects of a manifest file, read as strictly as an API server reads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rlhf.config import _UniqueKeyLoader
from rlhf.errors import ConfigError


@dataclass(frozen=True)
class Document:
    """One object of a file; `number` counts the documents of the file from 1."""

    number: int
    content: dict[str, Any]

    @property
    def api_version(self) -> str:
        found = self.content.get("apiVersion")
        return found if isinstance(found, str) else ""

    @property
    def kind(self) -> str:
        found = self.content.get("kind")
        return found if isinstance(found, str) else ""

    @property
    def name(self) -> str:
        metadata = self.content.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        return str(metadata.get("name") or metadata.get("generateName") or "(no name)")

    def __str__(self) -> str:
        return f"document {self.number} {self.kind or 'object'}/{self.name}"


_NO_JSON = ("tag:yaml.org,2002:timestamp", "tag:yaml.org,2002:value")


class _ManifestLoader(_UniqueKeyLoader):
    """Each key once; dates stay text, as JSON has none."""


_ManifestLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _NO_JSON]
    for first, resolvers in _UniqueKeyLoader.yaml_implicit_resolvers.items()
}


def read_documents(path: Path) -> list[Document]:
    """The objects of a file, those of a `kind: List` one by one. Raises ConfigError when it holds none."""
    try:
        return parse_documents(path.read_text(encoding="utf-8"), str(path))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file; name a manifest (….yaml)") from None
    except (IsADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not readable as a manifest ({error}); name a YAML file") from None


def parse_documents(text: str, name: str) -> list[Document]:
    """The same of a text; `name` stands before messages."""
    try:
        contents = list(yaml.load_all(text, Loader=_ManifestLoader))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{name}:{mark.line + 1}" if mark else name
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{place}: not valid YAML: {problem}; correct that line") from None
    found = [Document(number, each) for number, each in _objects(contents, name)]
    if not found:
        raise ConfigError(f"{name}: no object in it; a manifest has apiVersion, kind and metadata")
    return found


def _objects(contents: list[Any], name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, content in enumerate(contents, start=1):
        if content is None:
            continue
        if not isinstance(content, dict):
            what = type(content).__name__
            raise ConfigError(f"{name}: document {number} is a {what}; an object is a mapping with apiVersion and kind")
        if content.get("kind") == "List" and isinstance(content.get("items"), list):
            yield from ((number, each) for _, each in _objects(content["items"], name))
        else:
            yield number, content
