"""A field that takes one of a few words, which the schemas of Kubernetes hold as any text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rlhf.cluster.findings import Cursor, Finding

EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")
PROTOCOLS = ("TCP", "UDP", "SCTP")
RESTART_POLICIES = ("Always", "OnFailure", "Never")
SERVICE_TYPES = ("ClusterIP", "NodePort", "LoadBalancer")


def choice(given: Cursor, words: Sequence[str]) -> Iterator[Finding]:
    """A value that is none of the words; nothing and "" stand for the default."""
    if given and given.value not in words:
        yield given.fault(f"'{given.value}' is none of {', '.join(words)}; take one of them")


def one_of(holder: Cursor, fields: Sequence[str], what: str) -> Iterator[Finding]:
    """A mapping that must hold exactly one of some fields."""
    found = [field for field in fields if holder[field].given]
    if len(found) != 1:
        has = f"has {len(found)} {what}s ({', '.join(found)})" if found else f"has no {what}"
        yield holder.fault(f"{has}; give one of {', '.join(fields)}")
