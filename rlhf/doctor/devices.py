"""Devices: GPUs, their driver, and the torch that is to use them."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass

from rlhf.doctor.finding import Finding, fail, ok, warn

_QUERY = "--query-gpu=name,memory.total,driver_version"
_OLDEST_DRIVER = {12: 525, 13: 580}  # major CUDA version → driver on Linux (NVIDIA, CUDA compatibility)


@dataclass(frozen=True)
class Devices:
    """What the driver lists (a line per GPU: name, memory in MiB, driver), and what torch says of itself.

    `cuda` is the CUDA version that torch was built for, None for a CPU build; `usable` is how many GPUs it can use.
    """

    listed: tuple[str, ...]
    torch: str
    cuda: str | None
    usable: int


def devices() -> Finding:
    """GPUs and torch agree."""
    return judge(look())


def look() -> Devices:
    """Ask the driver and torch. Raises ImportError when there is no torch."""
    import torch

    return Devices(listed_gpus(), torch.__version__, torch.version.cuda, torch.cuda.device_count())


def listed_gpus() -> tuple[str, ...]:
    """The driver's list; empty where there is no driver."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        asked = [command, _QUERY, "--format=csv,noheader,nounits"]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip())


def judge(found: Devices) -> Finding:
    """What to say of these devices."""
    if not found.listed and found.usable == 0:
        return _without_gpu(found)
    gpus = "; ".join(found.listed) or f"{found.usable} GPUs"
    if found.cuda is None:
        remedy = "'pip install .[gpu]' in a new environment"
        return fail("devices", f"{gpus}, but torch {found.torch} is built for CPUs", remedy)
    oldest = _OLDEST_DRIVER.get(int(found.cuda.partition(".")[0]))
    driver = _driver(found.listed)
    if oldest is not None and driver is not None and driver < oldest:
        return fail(
            "devices", f"{gpus}; torch {found.torch} needs a driver for CUDA {found.cuda}",
            f"update the driver to {oldest} or newer",
        )
    if found.usable < len(found.listed):
        return warn(
            "devices", f"{gpus}; torch can use {found.usable} of {len(found.listed)}",
            "look at CUDA_VISIBLE_DEVICES and at the container's device settings",
        )
    return ok("devices", f"{gpus}; torch {found.torch} for CUDA {found.cuda}")


def _without_gpu(found: Devices) -> Finding:
    if found.cuda is None:
        return ok("devices", f"no GPU, and torch {found.torch} is built for CPUs")
    return warn(
        "devices", f"no GPU is visible, and torch {found.torch} is built for CUDA {found.cuda}",
        "install the driver and give the container its GPUs, or use 'make environment' for a machine without",
    )


def _driver(listed: tuple[str, ...]) -> int | None:
    """The major version of the driver; None where the list does not say it."""
    major = listed[0].rpartition(",")[2].strip().partition(".")[0] if listed else ""
    return int(major) if major.isdecimal() else None
