"""What the documents link to is there, anchors included, and so are the files of this repository that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token

from tests.docs.commands import DOCUMENTS, ROOT
from tests.docs.offline import MADE, OURS

NAMED = re.compile(r"[\w./-]+")


def inline(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield from token.children or ()


def broken_links(root: Path, document: str) -> list[str]:
    """Relative links and images of a document that lead nowhere, anchors included."""
    text = (root / document).read_text(encoding="utf-8")
    targets = [str(token.attrs.get("href") or token.attrs.get("src") or "") for token in inline(text)]
    return [target for target in targets if target and not is_external(target) and not leads(root, document, target)]


def is_external(target: str) -> bool:
    return re.match(r"[a-z]+:", target) is not None


def leads(root: Path, document: str, target: str) -> bool:
    name, _, anchor = target.partition("#")
    path = (root / document).parent / name if name else root / document
    return path.exists() and (not anchor or anchor in anchors(path.read_text(encoding="utf-8")))


def anchors(text: str) -> set[str]:
    """Anchors of a document's headings, as GitHub makes them."""
    tokens = MarkdownIt("commonmark").parse(text)
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def absent_files(root: Path, document: str) -> list[str]:
    """Paths of this repository in `backticks` that are not there."""
    text = (root / document).read_text(encoding="utf-8")
    words = [token.content for token in inline(text) if token.type == "code_inline"]
    named = [word.partition("::")[0] for word in words if word.startswith(OURS) and not word.startswith(MADE)]
    return [word for word in named if NAMED.fullmatch(word) and not (root / word).exists()]


@pytest.mark.parametrize("document", [*DOCUMENTS, "SECURITY.md"])
def test_links_lead_somewhere(document: str) -> None:
    assert broken_links(ROOT, document) == []


@pytest.mark.parametrize("document", [*DOCUMENTS, "SECURITY.md"])
def test_files_that_are_named_are_there(document: str) -> None:
    assert absent_files(ROOT, document) == []


@pytest.mark.parametrize("document", [name for name in [*DOCUMENTS, "SECURITY.md"] if not name.startswith("docs/")])
def test_other_sites_are_linked_to_where_they_are_checked(document: str) -> None:
    """`make links` reads docs/ alone."""
    text = (ROOT / document).read_text(encoding="utf-8")
    assert [token.attrs["href"] for token in inline(text) if is_external(str(token.attrs.get("href", "")))] == []


def test_what_leads_nowhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A B, `c`\n")
    (tmp_path / "README.md").write_text(
        "# Me\n[1](docs/a.md) [2](docs/a.md#a-b-c) [3](#me) [4](https://a.invalid) [5](docs/b.md) [6](docs/a.md#b) "
        "[7](#you) ![8](docs/c.png) `docs/a.md` `docs/d.md` | `docs/*.md`\n"
    )
    assert broken_links(tmp_path, "README.md") == ["docs/b.md", "docs/a.md#b", "#you", "docs/c.png"]
    assert absent_files(tmp_path, "README.md") == ["docs/d.md"]
