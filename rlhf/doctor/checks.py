"""The table of checks, in the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from rlhf.doctor import cluster, devices, machine, versions
from rlhf.doctor.finding import Finding, fail


def checks(run: Path, online: bool) -> list[tuple[str, Callable[[], Finding | Iterable[Finding]]]]:
    """Subject and check; `run` is where runs are to be written."""
    table: list[tuple[str, Callable[[], Finding | Iterable[Finding]]]] = [
        ("system", machine.system),
        ("Python", versions.python_version),
        ("engines", versions.engine_versions),
        ("devices", devices.devices),
        ("memory", machine.memory),
        ("shared memory", machine.shared_memory),
        ("disk of runs", lambda: machine.disk("disk of runs", run)),
        ("disk of Ray", lambda: machine.disk("disk of Ray", machine.ray_directory())),
        ("open files", machine.open_files),
        ("C++ compiler", machine.compiler),
        ("compilations", machine.compilations),
        ("ports", cluster.ports),
        ("RAY_ADDRESS", cluster.address),
        ("token", cluster.token),
        ("proxies", cluster.proxies),
    ]
    return [*table, ("hub", cluster.hub)] if online else table


def findings(run: Path, online: bool = False) -> Iterator[Finding]:
    """Every finding. A check that cannot be made, because a library or a file is not as it must be, has failed."""
    for subject, check in checks(run, online):
        try:
            found = check()
        except (ImportError, OSError, ValueError) as error:
            found = fail(subject, f"{type(error).__name__}: {error}".splitlines()[0], versions.INSTALL)
        yield from [found] if isinstance(found, Finding) else found
