"""What can be said about a documented command without running it: files, options, config keys and targets are there."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import typer

from rlhf import config as configs
from rlhf.cli import STAGES, command_line, load_object, split_arguments
from rlhf.errors import ConfigError
from rlhf.pipeline import PipelineConfig, jobs
from tests.docs.commands import ROOT, Command, files_of

OURS = tuple(f"{path.name}/" for path in ROOT.iterdir() if (ROOT / path.name).is_dir() and path.name[0].isalpha())
MADE = ("runs/", "build/")  # what commands write


def problems(command: Command) -> list[str]:
    """What is wrong with a command, a line each."""
    words = [word for word in command.words[1:] if word != "…"]
    checks = {
        "rlhf": lambda: _rlhf(words, command.document), "make": lambda: _make(words), "pip": lambda: _pip(words),
        "python": lambda: _python(words, command.document), "ray": lambda: _ray(words, command.document),
    }
    found = [*_paths(words), *checks.get(command.words[0], list)()]
    left_open = "" if command.is_whole else "required, but not given"
    return [line for line in found if not (left_open and line.endswith(left_open))]


def _paths(words: Sequence[str]) -> list[str]:
    """Files of this repository that are named and not there."""
    parts = [part for word in words for part in re.split(r"[=\s]", word) if part.startswith(OURS)]
    return [f"{path}: no such file" for path in parts if not path.startswith(MADE) and not (ROOT / path).exists()]


def _rlhf(words: Sequence[str], document: str) -> list[str]:
    try:
        name, given = _parsed(words)
        if name == "run" or name in STAGES:
            files, overrides = split_arguments(given.get("arguments") or ())
            _load(name, _merged(files, overrides, document))
    except (typer.TyperException, ConfigError) as error:
        return (error.format_message() if isinstance(error, typer.TyperException) else str(error)).splitlines()
    return []


def _parsed(words: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """A command's name and its arguments, as the command line reads them."""
    command = typer.main.get_command(command_line())
    context = command.make_context("rlhf", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return context.info_name, context.params


def _merged(files: Sequence[str], overrides: Sequence[str], document: str) -> dict[str, Any]:
    """What the files hold, looked for from the root; those that the document has its reader write, as it shows them."""
    own = files_of(document) if (ROOT / document).is_file() else {}
    with TemporaryDirectory() as directory:
        for name in own:
            (Path(directory) / Path(name).name).write_text(own[name], encoding="utf-8")
        return configs.read_merged(
            [Path(directory) / Path(file).name if file in own else ROOT / file for file in files], overrides
        )


def _load(name: str, raw: dict[str, Any]) -> None:
    """The config as the run validates it."""
    if name == "run":
        jobs(configs.validate(PipelineConfig, raw), STAGES, load_object)
    else:
        configs.validate(load_object(STAGES[name].config), raw)


def _make(words: Sequence[str]) -> list[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))
    variables = set(re.findall(r"\$[({]\s*(?:if \$\()?([A-Z_]+)", text))
    return [f"make {word}: no such target or variable" for word in words
            if word.partition("=")[0] not in (variables if "=" in word else targets)]


def _python(words: Sequence[str], document: str) -> list[str]:
    if words[:2] == ["-m", "rlhf"]:
        return _rlhf(words[2:], document)
    if words[:1] == ["-m"]:
        return [] if find_spec(words[1]) else [f"{words[1]}: no such module"]
    return []


def _pip(words: Sequence[str]) -> list[str]:
    asked = {extra for word in words for extra in re.findall(r"[\w-]+", "".join(re.findall(r"^\.\[(.*)\]$", word)))}
    return [f"{extra}: no such extra" for extra in sorted(asked - _extras())]


@cache
def _extras() -> set[str]:
    return set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def _ray(words: Sequence[str], document: str) -> list[str]:
    """`ray job submit … -- COMMAND`."""
    return _python(words[words.index("--") + 2 :], document) if "--" in words else []
