"""The commands that the documents show: what stands in their blocks of code, and what is said to be needed for it.

Blocks named sh, bash or console hold commands. Indented blocks, and those without a name, hold them where they begin
with a program: parts between empty lines are looked at one by one. Where a `$ ` begins a line, the others are output.

An HTML comment right before a block says what it needs beyond a checkout, `<!-- needs: cluster -->`; before the first
heading it speaks for the whole document.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path.relative_to(ROOT).as_posix() for path in [*ROOT.glob("README*.md"), *ROOT.glob("docs/*.md")])
NEEDS = {
    "cluster": "a Kubernetes cluster, or a registry of images",
    "gpu": "a CUDA device",
    "hours": "hours of this machine, or of one of the kind that the text names",
    "minutes": "minutes of this machine",
    "network": "downloads",
    "run": "a finished run, or data or models of your own",
}
SHELLS = ("sh", "bash", "console")
PROGRAMS = {
    ".", "cd", "curl", "docker", "export", "git", "helm", "kubectl", "make", "nc", "pip", "prometheus", "ps", "python",
    "ray", "rlhf", "ssh", "tensorboard",
}
_NEEDS = re.compile(r"<!--\s*needs:\s*(.*?)\s*-->")
_VARIABLE = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Command:
    """One command of a document, without comment and variables; `needs`: keys of NEEDS."""

    document: str
    line: int
    words: tuple[str, ...]
    needs: frozenset[str]

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {shlex.join(self.words)}"

    @property
    def is_whole(self) -> bool:
        """Whether nothing is left to the reader."""
        return not any("…" in word for word in self.words)


def commands_of(document: str, text: str | None = None) -> list[Command]:
    """The commands of a document (a path from the root; `text`: instead of what it holds), from top to bottom."""
    text = (ROOT / document).read_text(encoding="utf-8") if text is None else text
    found, always, here, began = [], frozenset[str](), frozenset[str](), False
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "html_block":
            here = _needs(token.content)
            always = always if began else always | here
        elif token.type in ("fence", "code_block"):
            first = token.map[0] + (2 if token.type == "fence" else 1)
            for line, words in _in_block(token.content, token.info.strip()):
                found.append(Command(document, first + line, words, always | here))
        if token.type not in ("html_block", "list_item_open", "bullet_list_open", "ordered_list_open"):
            here = frozenset()
        began = began or token.type == "heading_open"
    return found


def files_of(document: str, text: str | None = None) -> dict[str, str]:
    """The files that a document has its reader write: named in `backticks` by the paragraph before their block."""
    text = (ROOT / document).read_text(encoding="utf-8") if text is None else text
    found, names = dict[str, str](), list[str]()
    for token in MarkdownIt("commonmark").parse(text):
        if token.type == "inline":
            names = [child.content for child in token.children or () if child.type == "code_inline"]
        elif token.type == "fence":
            found |= {name: token.content for name in names if name.endswith((".yaml", ".py"))}
            names = []
    return found


def _needs(comment: str) -> frozenset[str]:
    said = _NEEDS.search(comment)
    return frozenset(re.split(r",\s*", said[1])) if said else frozenset()


def _in_block(content: str, info: str) -> Iterator[tuple[int, tuple[str, ...]]]:
    """(line of the block, words) of every command in it."""
    if info and info not in SHELLS:
        return
    for part in re.finditer(r"(?:[^\n]*\S[^\n]*(?:\n|$))+", content):
        lines = _lines(content.count("\n", 0, part.start()), part[0])
        if any(text.startswith("$ ") for _, text in lines):
            lines = [(line, text[2:]) for line, text in lines if text.startswith("$ ")]
        elif not lines or not (info in ("sh", "bash") or _program(lines[0][1]) in PROGRAMS):
            continue
        for line, text in lines:
            yield from ((line, words) for words in simple_commands(text))


def _lines(first: int, part: str) -> list[tuple[int, str]]:
    """Numbered lines, continued ones joined, those with nothing but a comment left out."""
    joined: list[tuple[int, str]] = []
    continued = False
    for offset, text in enumerate(part.splitlines()):
        if continued:
            joined[-1] = (joined[-1][0], f"{joined[-1][1]} {text.strip().removesuffix(chr(92))}")
        elif not text.lstrip().startswith("#"):
            joined.append((first + offset, text.strip().removesuffix("\\")))
        continued = text.endswith("\\")
    return joined


def _program(text: str) -> str:
    """The program that a line calls: the last part of its path, python for python3.11."""
    words = [word for word in text.split() if not _VARIABLE.fullmatch(word)]
    name = words[0].rpartition("/")[2] if words and words[0] != "." else "."
    return re.sub(r"^(python|pip)[\d.]*$", r"\1", name)


def simple_commands(text: str) -> Iterator[tuple[str, ...]]:
    """The simple commands of a line of shell: program by its name alone, no variables before it, `[ ]` left out."""
    lexer = shlex.shlex(text, posix=True, punctuation_chars="&|;")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not word.strip("&|;"):
            yield from [(_program(words[0]), *words[1:])] if words else []
            words = []
        elif (words or not (_VARIABLE.fullmatch(word) or word in "{}")):
            words.append(re.sub(r"^\[([^\],]+)\]$", r"\1", word))
