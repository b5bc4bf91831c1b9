"""`make audit`: what is found is named, and told by the exit status; what could not be asked is never called clean."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[1]
CANARY = "jinja2"


@pytest.fixture(scope="module")
def audit() -> Iterator[Any]:
    """The module, as the script imports it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "cluster"))
        import audit

        yield audit


@pytest.fixture(scope="module")
def tool(audit: Any) -> None:
    """The environment of pip-audit. It comes from a package index, so that must be there; it is in CI."""
    try:
        audit.make_environment()
    except audit.SetupError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))


@contextmanager
def database(known: dict[str, dict[str, Any]], status: int = 200) -> Iterator[str]:
    """A server that speaks OSV's protocol: package → its one vulnerability."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]["name"]
            found = known.get(asked)
            body = json.dumps({"vulns": [found]} if found else {}).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/query"
    server.shutdown()
    thread.join()
    server.server_close()


def vulnerability(package: str, identity: str) -> dict[str, Any]:
    affected = {
        "package": {"name": package, "ecosystem": "PyPI"}, "versions": ["1.0.0", "2.4.1"],
        "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.0.1"}]}],
    }
    return {
        "id": identity, "summary": "made up", "details": "made up", "aliases": ["CVE-2099-1"], "affected": [affected],
        "modified": "2026-01-01T00:00:00Z", "published": "2026-01-01T00:00:00Z",
    }


def run(url: str, pins: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "cluster" / "audit.py"), "--pins", str(pins), "--osv-url", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    path = tmp_path / "pins.txt"
    path.write_text("# two\nidna==1.0.0\ntorch==1.0.0+cpu\n")
    return path


def test_a_vulnerable_pin_is_named(tool: None, pins: Path) -> None:
    """Also one whose version is that of a build."""
    known = {CANARY: vulnerability(CANARY, "PYSEC-0"), "torch": vulnerability("torch", "PYSEC-7")}
    with database(known) as url:
        ended = run(url, pins)
    assert ended.returncode == 1
    assert "audit: torch 1.0.0: PYSEC-7, CVE-2099-1 (fixed in 9.0.1)" in ended.stdout
    assert ended.stderr.startswith("audit: 1 known vulnerabilities in the pins, says OSV; raise the pins")


def test_clean_pins(tool: None, pins: Path) -> None:
    with database({CANARY: vulnerability(CANARY, "PYSEC-0")}) as url:
        ended = run(url, pins)
    assert (ended.returncode, ended.stdout) == (0, "audit: no known vulnerability in the pins, says OSV\n")


@pytest.mark.parametrize("status", [200, 404, 500])
def test_a_database_that_knows_nothing_is_none(tool: None, pins: Path, status: int) -> None:
    with database({}, status) as url:
        ended = run(url, pins)
    assert ended.returncode == 3 and ended.stdout == ""
    assert ended.stderr.startswith("audit: nothing was checked: no database of vulnerabilities could be reached (OSV)")


def test_nobody_there(tool: None, pins: Path) -> None:
    assert run("http://127.0.0.1:1/", pins).returncode == 3


def test_the_pins_are_asked_for_as_databases_know_them(audit: Any) -> None:
    asked = audit.without_builds(ROOT / "cluster" / "requirements-cpu.txt")
    assert all("+" not in pin and "==" in pin for pin in asked)
    assert "torch==2.13.0" in asked and any(pin.startswith("vllm==") for pin in asked)
    assert len(asked) > 150


def test_what_was_reviewed_is_told_with_its_reason(audit: Any, tmp_path: Path, capsys) -> None:
    path = tmp_path / "ignored.txt"
    path.write_text("# why\nCVE-2099-1 Torch only where a model comes from a web page\nPYSEC-9 idna was never ours\n")
    found = audit.Finding("torch", "1.0.0", ["PYSEC-7", "CVE-2099-1"], [])
    assert audit.tell("OSV", audit.Report([found], ["odd"]), audit.read_ignored(path)) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "audit: ignored: torch CVE-2099-1: only where a model comes from a web page",
        "audit: out of date in audit-ignored.txt: idna PYSEC-9 was not found; remove it",
        "audit: OSV does not know 1 pins: odd", "audit: no known vulnerability in the pins, says OSV",
    ]
    other = audit.Finding("idna", "1.0.0", ["CVE-2099-1"], [])  # the same name, of another package
    assert audit.tell("OSV", audit.Report([found, other], []), audit.read_ignored(path)) == 1


@pytest.mark.parametrize("line", ["CVE-2099-1", "CVE-2099-1 torch"])
def test_what_has_no_reason_is_not_ignored(audit: Any, tmp_path: Path, line: str) -> None:
    path = tmp_path / "ignored.txt"
    path.write_text(line + "\n")
    with pytest.raises(audit.SetupError, match="has no reason"):
        audit.read_ignored(path)


def test_the_list_in_the_repository_is_well_formed(audit: Any) -> None:
    audit.read_ignored(audit.IGNORED)


@pytest.mark.parametrize("content", [{}, {"dependencies": [{"name": "x"}]}, []])
def test_what_is_no_report(audit: Any, content: Any) -> None:
    check: Callable[[Any], Any] = audit.report_of
    with pytest.raises((KeyError, TypeError)):
        check(content)
