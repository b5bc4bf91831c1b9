"""Checks manifests without a cluster: schemas, the operator's rules, what opens the cluster to others.

What stays to the API server and the operator: admission, quotas, scheduling, names that exist in the cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlhf.cluster.documents import Document, read_documents
from rlhf.cluster.findings import Advice, Cursor, Fault, Finding
from rlhf.cluster.kubernetes import core_kind, core_kinds
from rlhf.cluster.rules.core import core_findings
from rlhf.cluster.rules.objects import ray_findings
from rlhf.cluster.security import security_advice
from rlhf.cluster.strict import CustomKind, custom_kind, custom_kinds
from rlhf.cluster.structural import structural_faults
from rlhf.config import suggestion
from rlhf.errors import ConfigError

_RAY = "ray.io"


@dataclass(frozen=True)
class Checked:
    """A manifest file and what was found in it: one line per finding."""

    objects: int
    faults: list[str]
    advice: list[str]
    unknown: list[str]  # objects of kinds that nothing is known about

    @property
    def verdict(self) -> str:
        """What was found to be valid."""
        known = self.objects - len(self.unknown)
        rest = f", {len(self.unknown)} not checked" if self.unknown else ""
        return f"{known} object{'s' if known != 1 else ''}, valid{rest}"


def check_file(path: Path) -> Checked:
    """Check every object of a file. A file that cannot be read is one fault."""
    try:
        documents = read_documents(path)
    except ConfigError as error:
        return Checked(0, [str(error)], [], [])
    return check_documents(documents, str(path))


def check_documents(documents: list[Document], name: str) -> Checked:
    """The same of objects that were read already."""
    checked = Checked(len(documents), [], [], [])
    checked.faults.extend(f"{name}: {line}" for line in _twice(documents))
    for document in documents:
        kind = _schema(document)
        if kind is None and not _known_group(document):
            checked.unknown.append(f"{name}: {document}: {document.api_version} is not known here, so not checked")
            continue
        for finding in dict.fromkeys(check_object(document)):
            line = f"{name}: {document}: {finding}"
            (checked.faults if isinstance(finding, Fault) else checked.advice).append(line)
    return checked


def _twice(documents: list[Document]) -> Iterator[str]:
    """Objects that stand in the file twice: the later one would replace the other."""
    seen: dict[tuple[str, str, str, str], Document] = {}
    for document in documents:
        metadata = Cursor(document.content)["metadata"]
        key = (document.api_version, document.kind, metadata["namespace"].text, metadata["name"].text)
        if metadata["name"].text and key in seen:
            yield f"{document}: metadata.name: document {seen[key].number} has the same kind and name; rename one"
        seen[key] = document


def check_object(document: Document) -> Iterator[Finding]:
    """Every finding of one object: of its schema first, then of the rules."""
    content = pruned(document.content)
    schema = _schema(document)
    if schema is None:
        yield _unknown(document)
        return
    if isinstance(schema, CustomKind) and schema.deprecated:
        yield Advice(("apiVersion",), f"{document.api_version} is deprecated; take {_newest(document)}")
    yield from structural_faults(schema.schema if isinstance(schema, CustomKind) else schema, content)
    cursor = Cursor(content)
    if document.api_version.startswith(f"{_RAY}/"):
        yield from ray_findings(document.kind, cursor)
    else:
        yield from core_findings(document.api_version, document.kind, cursor)
    yield from security_advice(document.kind, cursor)


def pruned(value: Any) -> Any:
    """A value without fields that are null: the API server takes those as absent."""
    if isinstance(value, Mapping):
        return {key: pruned(each) for key, each in value.items() if each is not None}
    return [pruned(each) for each in value] if isinstance(value, list) else value


def _schema(document: Document) -> CustomKind | dict[str, Any] | None:
    custom = custom_kind(f"{document.api_version}/{document.kind}")
    return custom or core_kind(document.api_version, document.kind)


def _known_group(document: Document) -> bool:
    """Whether an object of this group that is not found here is a mistake."""
    group = document.api_version.rpartition("/")[0]
    ours = {name.partition("/")[0] for name in custom_kinds()}
    return not document.api_version or not document.kind or group in ours or bool(core_kinds(group))


def _unknown(document: Document) -> Fault:
    if not document.api_version or not document.kind:
        field = "kind" if document.api_version else "apiVersion"
        return Fault((field,), "required, but not given; add it, as text")
    group = document.api_version.rpartition("/")[0]
    own: dict[str, list[str]] = {}
    for name in custom_kinds():
        if name.startswith(f"{group}/"):
            version, _, kind = name.rpartition("/")
            own.setdefault(kind, []).append(version)
    known = own or core_kinds(group)
    if document.kind in known:
        return Fault(("apiVersion",), f"{document.api_version} has no {document.kind}; take {known[document.kind][0]}")
    return Fault(("kind",), f"{document.api_version} has no '{document.kind}'{_near(document.kind, known)}")


def _near(kind: str, known: Mapping[str, Any]) -> str:
    found = suggestion(kind, known)
    return found if found[0] == "," or len(known) < 9 else "; correct it"


def _newest(document: Document) -> str:
    group = document.api_version.partition("/")[0]
    fresh = [
        name.rpartition("/")[0] for name in custom_kinds()
        if name.startswith(f"{group}/") and name.endswith(f"/{document.kind}")
        and not custom_kind(name).deprecated  # type: ignore[union-attr]
    ]
    return fresh[0] if fresh else "another version"
