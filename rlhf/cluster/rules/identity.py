"""How an object may be called, and where it may be."""

from __future__ import annotations

from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import is_dns_1123, is_subdomain

_ANY_NAME = ("rbac.authorization.k8s.io", "certificates.k8s.io")  # groups whose names may hold ':'
_LABELS = ("Namespace", "Service")  # kinds whose names become a part of an address


def identity_findings(api_version: str, kind: str, metadata: Cursor) -> Iterator[Finding]:
    """Every rule of the name and namespace of an object that is not Ray's."""
    name, prefix = metadata["name"], metadata["generateName"]
    if not name and not prefix:
        yield name.fault("required, but not given; add it")
    elif api_version.partition("/")[0] not in _ANY_NAME and kind != "IPAddress":
        yield from _name(kind, name) if name else _name(kind, prefix, "x")
    yield from namespace_findings(metadata)


def namespace_findings(metadata: Cursor) -> Iterator[Finding]:
    """A namespace is one label of an address."""
    namespace = metadata["namespace"]
    if namespace.text and not is_dns_1123(namespace.text):
        yield namespace.fault(
            f"'{namespace.text}' is no namespace; take at most 63 lower-case letters, digits and '-'"
        )


def _name(kind: str, name: Cursor, end: str = "") -> Iterator[Finding]:
    """`end`: what the API server adds to a prefix, as far as it matters here."""
    if not name.text:
        return
    if kind in _LABELS and not is_dns_1123(name.text + end):
        yield name.fault(f"'{name.text}' is no name of a {kind}; take at most 63 lower-case letters, digits and '-'")
    elif not is_subdomain(name.text + end):
        yield name.fault(f"'{name.text}' is no name of an object; take lower-case letters, digits, '-' and '.'")
