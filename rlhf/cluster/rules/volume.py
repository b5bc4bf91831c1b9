"""What Kubernetes refuses of the volumes of a pod, and of claims of storage."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rlhf.cluster.findings import Cursor, Finding
from rlhf.cluster.names import quantity
from rlhf.cluster.rules.choice import choice

_MODES = ("ReadWriteOnce", "ReadOnlyMany", "ReadWriteMany", "ReadWriteOncePod")
_MEDIUM = re.compile(r"Memory|HugePages(-[0-9]+[KMG]i)?")


def volume_findings(volume: Cursor) -> Iterator[Finding]:
    """Every rule of one volume."""
    sources = [key for key in volume.keys if key != "name" and volume[key].given]
    if len(sources) != 1 and volume["name"].given:
        what = f"has {len(sources)} sources ({', '.join(sources)})" if sources else "has no source"
        yield volume.fault(f"volume '{volume['name'].text}' {what}; give one, persistentVolumeClaim for example")
    limit, medium = volume.at("emptyDir", "sizeLimit"), volume.at("emptyDir", "medium")
    if limit.given and quantity(limit.value) is None:
        yield limit.fault(f"'{limit.value}' is no quantity; write it like 500Mi or 16Gi")
    if medium.text and not _MEDIUM.fullmatch(medium.text):
        yield medium.fault(f"'{medium.text}' is none of Memory, HugePages; take one of them, or remove it for the disk")
    claim = volume.at("ephemeral", "volumeClaimTemplate", "spec")
    if claim.given:
        yield from claim_findings(claim)


def claim_findings(claim: Cursor) -> Iterator[Finding]:
    """Every rule of the spec of a PersistentVolumeClaim."""
    modes, size = claim["accessModes"], claim.at("resources", "requests", "storage")
    if not modes:
        yield modes.fault("required, but not given; write [ReadWriteMany] for what several nodes use")
    for mode in modes:
        yield from choice(mode, _MODES)
    yield from choice(claim["volumeMode"], ("Filesystem", "Block"))
    amount = quantity(size.value)
    if not size.given:
        yield size.fault("required, but not given; write the size that is wanted, 100Gi")
    elif amount is None:
        yield size.fault(f"'{size.value}' is no quantity; write it like 100Gi")
    elif amount <= 0:
        yield size.fault(f"{size.value} is no size; give more than 0, 100Gi")
