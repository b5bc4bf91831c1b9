"""The machine: room on disks, shared memory, memory, open files, compiler and what was compiled."""

from __future__ import annotations

import os
import platform
import resource
import shutil
from collections.abc import Mapping
from pathlib import Path

import psutil

from rlhf.doctor.finding import Finding, fail, ok, warn
from rlhf.training.operators import is_at_work

GIB = 1024**3
_CGROUP = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_RAY_GIVES_UP = 0.95  # of its disk: beyond it Ray spills no object (local_fs_capacity_threshold)
_NEEDED, _SMALL = {"disk": 2.0, "memory": 4.0, "shm": 0.5}, {"disk": 20.0, "memory": 8.0, "shm": 2.0}  # GiB


def system() -> Finding:
    """The wheels of the engines are for Linux on x86-64."""
    found = f"{platform.system()} {platform.machine()}"
    if found == "Linux x86_64":
        return ok("system", found)
    return fail("system", found, "use Linux on x86-64; elsewhere the pinned engines have no builds")


def disk(subject: str, directory: Path) -> Finding:
    """Room where a run writes; `directory` or the nearest one above it that exists."""
    if directory.exists() and not directory.is_dir():
        return fail(subject, f"{directory} is no directory", "name one, or a place where one can be made")
    there = next(path for path in (directory.absolute(), *directory.absolute().parents) if path.is_dir())
    usage = shutil.disk_usage(there)
    return judge_disk(subject, there, usage.free, usage.total)


def judge_disk(subject: str, directory: Path, free: int, total: int) -> Finding:
    """What to say of `free` of `total` bytes."""
    found = f"{free / GIB:.0f} of {total / GIB:.0f} GiB free at {directory}"
    remedy = "free some, or use another disk: 'output=' for runs, RAY_TMPDIR for Ray"
    if free < _NEEDED["disk"] * GIB:
        return fail(subject, found, remedy)
    if free < _SMALL["disk"] * GIB or free < (1 - _RAY_GIVES_UP) * total:
        return warn(subject, found, f"{remedy}; a checkpoint takes 16 bytes per trained weight, and beyond 95% full "
                                    f"Ray keeps no objects on it")
    return ok(subject, found)


def ray_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where Ray writes its sessions."""
    return Path(environment.get("RAY_TMPDIR", "/tmp")) / "ray"


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:
    """Ray's object store, NCCL and vLLM share memory between processes."""
    if not place.is_dir():
        return judge_shared_memory(0, 0)
    usage = shutil.disk_usage(place)
    return judge_shared_memory(usage.free, usage.total)


def judge_shared_memory(free: int, total: int) -> Finding:
    """What to say of `free` of `total` bytes of /dev/shm."""
    found = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free in /dev/shm"
    remedy = "give the container more: 'docker run --shm-size=8g', or on Kubernetes an emptyDir with medium: Memory"
    if free < _NEEDED["shm"] * GIB:
        return fail("shared memory", found, remedy)
    if free < _SMALL["shm"] * GIB:
        return warn("shared memory", found, f"{remedy}; or set cluster.object_store_gib lower")
    return ok("shared memory", found)


def memory() -> Finding:
    """What this process may use, which in a container is less than the machine has."""
    found = psutil.virtual_memory()
    return judge_memory(found.total, found.available, cgroup_limit())


def judge_memory(total: int, available: int, limit: int | None) -> Finding:
    """What to say of a machine's memory and the limit of its container, bytes."""
    usable = available if limit is None else min(available, limit)
    within = f", and this container may use {limit / GIB:.1f}" if limit is not None and limit < total else ""
    found = f"{available / GIB:.1f} of {total / GIB:.1f} GiB free{within}"
    remedy = "end other processes or raise the limit; 'make demo' takes 5 to 7 GiB"
    if usable < _NEEDED["memory"] * GIB:
        return fail("memory", found, remedy)
    return ok("memory", found) if usable >= _SMALL["memory"] * GIB else warn("memory", found, remedy)


def cgroup_limit(places: tuple[Path, ...] = _CGROUP) -> int | None:
    """The limit of this container, bytes; None where there is none."""
    for place in places:
        if place.is_file():
            text = place.read_text().strip()
            return int(text) if text.isdecimal() and int(text) < 2**60 else None
    return None


def open_files() -> Finding:
    """Ray opens several files per process and connection."""
    return judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE))


def judge_open_files(soft: int, hard: int) -> Finding:
    """What to say of the limits on open files; Ray raises the soft one to the hard one by itself."""
    highest = float("inf") if hard == resource.RLIM_INFINITY else hard
    found = f"{soft} (at most {'any number' if highest == float('inf') else hard})"
    if highest < 4096:
        return fail("open files", found, "raise it: 'ulimit -n 65536', or nofile in the container's settings")
    if highest < 16384:
        return warn("open files", found, "raise it to 65536 for clusters of several nodes: nofile in limits.conf")
    return ok("open files", found)


def compiler(environment: Mapping[str, str] = os.environ) -> Finding:
    """DeepSpeed builds its optimizer for CPUs, and torch its kernels, with a C++ compiler."""
    for name in filter(None, (environment.get("CXX"), "c++", "g++")):
        found = shutil.which(name)
        if found:
            return ok("C++ compiler", found)
    return fail("C++ compiler", "none", "install one: 'apt-get install g++'")


def compilations(environment: Mapping[str, str] = os.environ) -> Finding:
    """A killed process that compiled an operator leaves torch's lock; other programs than ours wait for it for ever."""
    cache = environment.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(environment.get("TORCH_EXTENSIONS_DIR") or Path(cache, "torch_extensions"))
    locks = [lock for depth in ("*", "*/*") for lock in root.glob(f"{depth}/lock")]
    left = [lock for lock in locks if not is_at_work(lock.parent)]
    if left:
        return warn("compilations", f"{left[0]}: left by a process that was killed", f"rm {' '.join(map(str, left))}")
    return ok("compilations", "one is under way" if locks else "none was broken off")
