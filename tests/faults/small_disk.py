"""Disks that are really too small."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(directory: Path, mib: int) -> Iterator[Path]:
    """A file system of so many MiB in memory. Without the right to mount one a test is skipped, but fails where `CI` is
    set."""
    directory.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(directory)]
    mounted = subprocess.run(mounting, capture_output=True, text=True)
    if mounted.returncode:
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse(f"a file system of its own needs root and the right to mount: {mounted.stderr.strip()}")
    yield directory
    subprocess.run(["umount", str(directory)], check=True)
