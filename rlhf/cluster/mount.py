"""Where the volume of runs may lie in pods: at a place that neither the image nor the manifest uses."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

# The image's environment and home; what the manifest mounts and points Ray and the hub's cache at; the system's own.
TAKEN = (
    "/opt/rlhf", "/home/rlhf", "/config", "/tmp", "/dev", "/bin", "/boot", "/etc", "/lib", "/lib64", "/proc", "/root",
    "/run", "/sbin", "/sys", "/usr", "/var",
)


def mount_problem(path: str) -> str | None:
    """Why a volume may not lie there, None where it may."""
    if not path.startswith("/") or path.startswith("//") or path != posixpath.normpath(path):
        return "is no absolute path"
    place = PurePosixPath(path)
    for taken in map(PurePosixPath, TAKEN):
        if place == taken:
            return "is what the pods use themselves"
        if place.is_relative_to(taken):
            return f"lies inside {taken}, which the pods use themselves"
        if taken.is_relative_to(place):
            return f"would hide {taken}, which the pods use themselves"
    return None
