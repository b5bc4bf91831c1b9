"""The machine that this process runs on, as a cluster of one node."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rlhf.plan.hardware import GIB, GPUS, Cluster, Gpu

_CGROUPS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))


def memory_bytes(meminfo: Path = Path("/proc/meminfo"), limits: tuple[Path, ...] = _CGROUPS) -> float | None:
    """Memory that processes here can have: of the machine, or of the container where that is less."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        found.append(float(fields["MemTotal"].split()[0]) * 1024)
    except (OSError, KeyError, ValueError, IndexError):
        pass
    for path in limits:
        try:
            found.append(float(path.read_text()))  # "max" is no number, and no limit
        except (OSError, ValueError):
            continue
    return min(found) if found else None


def this_machine() -> Cluster:
    """One node with what torch finds: its GPUs, or its memory alone."""
    import torch

    if not torch.cuda.is_available():
        return Cluster(1, 0, None, memory_bytes())
    name, memory = torch.cuda.get_device_name(), float(torch.cuda.get_device_properties(0).total_memory)
    return Cluster(1, torch.cuda.device_count(), gpu_named(name, memory), memory_bytes())


def gpu_named(name: str, memory: float) -> Gpu:
    """The kind whose name a driver's name contains and whose memory is nearest; its memory is the real one."""
    plain = name.upper().replace(" ", "")
    alike = [gpu for gpu in GPUS.values() if gpu.kind.partition("-")[0] in plain] or list(GPUS.values())
    near = min(alike, key=lambda gpu: abs(gpu.memory - memory))
    return replace(near, kind=f"{name.replace(' ', '-')}-{memory / GIB:.0f}", memory=memory)
