"""`make docs`: builds without a warning, has every config key, and sees what is broken."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import threading
from html import unescape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.keys import keys
from rlhf.pipeline import PipelineConfig
from tests.docs.commands import ROOT
from tests.limits import HANG_S


def options(made: str) -> list[str]:
    """Sphinx's options as `make docs` and `make links` give them."""
    (line,) = re.findall(rf"-m sphinx (.*) docs build/{made}$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return shlex.split(line)


def build(source: Path, target: Path, made: str = "docs") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", *options(made), str(source), str(target)]
    environment = {**os.environ, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, text=True, capture_output=True, timeout=HANG_S, check=False
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built documents. Sphinx's own errors are the test's."""
    target = tmp_path_factory.mktemp("docs")
    done = build(ROOT / "docs", target)
    assert (done.returncode, done.stderr) == (0, "")
    return target


def test_the_documents_are_built_without_a_warning(site: Path) -> None:
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert documents <= {path.stem for path in site.glob("*.html")}


def test_every_key_of_every_stage_is_listed(site: Path) -> None:
    page = unescape(re.sub(r"<[^>]*>", "", (site / "keys.html").read_text(encoding="utf-8")))
    models = [*(load_object(stage.config) for stage in STAGES.values()), PipelineConfig]
    listed = [key for model in models for key in keys(model)]
    words = set(page.split())
    assert [key.path for key in listed if key.path not in words] == []
    plain = [key.meaning for key in listed if not set(key.meaning) & set("`'\"*_")]
    assert [meaning for meaning in plain if meaning not in page] == []


def test_papers_are_links(site: Path) -> None:
    page = (site / "algorithms.html").read_text(encoding="utf-8")
    assert page.count("arXiv:") == len(re.findall(r'href="https://arxiv\.org/abs/[\d.]+">arXiv:', page)) > 10


class Site(BaseHTTPRequestHandler):
    """Has one page."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/there" else 404)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments: object) -> None: ...


def test_a_site_that_has_not_what_is_linked_to_ends_the_check_of_links(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        (docs / "index.md").write_text(f"# All\n\n[a]({address}/there)\n")
        assert build(docs, tmp_path / "sound", "links").returncode == 0
        (docs / "index.md").write_text(f"# All\n\n[a]({address}/there) and [b]({address}/absent)\n")
        done = build(docs, tmp_path / "broken", "links")
    finally:
        server.shutdown()
    assert done.returncode != 0 and f"{address}/absent" in done.stdout + done.stderr, done.stderr
    assert f"{address}/there" not in done.stderr


BROKEN = {
    "[a](absent.md)": "'absent.md'",
    "[a](one.md#absent)": "'absent'",
    "[a](#nowhere)": "'nowhere'",
    "[a](../absent.yaml)": "'../absent.yaml'",
    "[a](../absent.md#part)": "/absent.md [download.not_readable]",
    "![a](absent.png)": "absent.png",
}


def test_what_is_broken_ends_the_build(tmp_path: Path) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    shutil.copy(ROOT / "docs" / "conf.py", docs)
    (docs / "index.md").write_text("# All\n\n```{toctree}\none\n```\n")
    (docs / "one.md").write_text("# One\n\n" + "\n\n".join(BROKEN))
    (docs / "lost.md").write_text("# Lost\n")
    done = build(docs, tmp_path / "site")
    assert done.returncode != 0
    for line, said in enumerate(BROKEN.values()):
        assert re.search(rf"one\.md:{3 + 2 * line}: WARNING: .*{re.escape(said)}", done.stderr), done.stderr
    assert "lost.md: WARNING: document isn't included in any toctree" in done.stderr
