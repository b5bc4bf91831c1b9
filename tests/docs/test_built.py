"""`make docs`: builds without a warning, has every config key, and sees what is broken."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

from rlhf.cli import STAGES, load_object
from rlhf.keys import keys
from rlhf.pipeline import PipelineConfig
from tests.docs.commands import ROOT
from tests.limits import HANG_S


def options() -> list[str]:
    """Sphinx's options as `make docs` gives them."""
    (line,) = re.findall(r"-m sphinx (.*) docs build/docs$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    return shlex.split(line)


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sphinx", *options(), str(source), str(target)]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=False)


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
