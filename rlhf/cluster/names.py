"""Names, labels, quantities and versions as Kubernetes writes them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal

from rlhf.cluster.findings import Cursor, Fault

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]")
_NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,2}(?![0-9]))?"
_QUANTITY = re.compile(rf"({_NUMBER})(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|)")
_UNITS = {"": Decimal(1), "n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("0.001")}
_UNITS.update({unit: Decimal(1000**power) for power, unit in enumerate("kMGTPE", start=1)})
_UNITS.update({f"{unit}i": Decimal(1024**power) for power, unit in enumerate("KMGTPE", start=1)})
_VERSION = re.compile(r"v?(\d+)\.(\d+)(?:\.(\d+))?")


def is_dns_1035(name: str) -> bool:
    """Begins with a letter; lower-case letters, digits, '-'; at most 63 characters (RFC 1035)."""
    return len(name) <= 63 and _DNS_1035.fullmatch(name) is not None


def is_dns_1123(name: str) -> bool:
    """As before, and may begin with a digit (RFC 1123)."""
    return len(name) <= 63 and _DNS_1123.fullmatch(name) is not None


def is_subdomain(name: str) -> bool:
    return len(name) <= 253 and _SUBDOMAIN.fullmatch(name) is not None


def is_label_key(key: str) -> bool:
    prefix, _, name = key.rpartition("/")
    return (is_subdomain(prefix) or "/" not in key) and len(name) <= 63 and _LABEL.fullmatch(name) is not None


def is_label_value(value: str) -> bool:
    return not value or (len(value) <= 63 and _LABEL.fullmatch(value) is not None)


def quantity(value: object) -> Decimal | None:
    """`1500m`, `16Gi`, `4`, `2e3` → a number; None for what is none."""
    found = _QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
    return Decimal(found[1]) * _UNITS[found[2]] if found else None


def version(text: str) -> tuple[int, int, int] | None:
    """`2.60.0` → (2, 60, 0); None for what is no version."""
    found = _VERSION.match(text)
    return (int(found[1]), int(found[2]), int(found[3] or 0)) if found else None


def label_faults(labels: Cursor) -> Iterator[Fault]:
    """Keys and values of a mapping of labels."""
    for label in labels:
        if not is_label_key(label.key):
            yield label.fault("is no key of a label; take letters, digits, '-', '_', '.', and a domain/ before them")
        if not is_label_value(label.text):
            yield label.fault(f"'{label.text}' is no value of a label; take at most 63 letters, digits, '-', '_', '.'")
