"""How Sphinx builds these documents: `make docs`."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE)]

project = "rlhf"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "rlhf"
html_show_copyright = False
highlight_language = "none"  # of blocks that do not name one
myst_heading_anchors = 4


PAPER = re.compile(r"\barXiv:(\d{4}\.\d{5})\b")
OUTSIDE = re.compile(r"\]\((\.\./[^)#]*\.md)(#[^)]*)?\)")


def prepare(_: Sphinx, document: str, source: list[str]) -> None:
    """Papers become links; documents beside this directory files to download; docs/keys.md gets its tables below its
    words."""
    source[0] = OUTSIDE.sub(r"](path:\1)", source[0])
    if document == "keys":
        from reference import key_tables

        source[0] += "\n" + key_tables()
    source[0] = PAPER.sub(r"[\g<0>](https://arxiv.org/abs/\1)", source[0])


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("source-read", prepare)
    return {"parallel_read_safe": True}
