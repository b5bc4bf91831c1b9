"""Paths that are no file, no readable one, or no path at all, in every place of every config that names one."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rlhf import artifacts
from tests.fuzz.entry import command, require_one_sentence, without_ray
from tests.fuzz.test_stage_files import NAMES, stages


def pipe(path: Path) -> Path:
    os.mkfifo(path)
    return path


def loop(path: Path) -> Path:
    path.symlink_to(path.name)
    return path


def dangling(path: Path) -> Path:
    path.symlink_to("nowhere")
    return path


def directory(path: Path) -> Path:
    path.mkdir()
    (path / "inner").write_text("x")
    return path


def unreadable_within(path: Path) -> Path:
    """A directory with a file that gives an error when it is read, to root, too."""
    path.mkdir()
    (path / "memory").symlink_to("/proc/self/mem")
    return path


PATHS: dict[str, Callable[[Path], Path | str]] = {
    "pipe": pipe, "loop": loop, "dangling": dangling, "directory": directory, "unreadable within": unreadable_within,
    "device": lambda path: "/dev/zero", "root": lambda path: "/", "unreadable": lambda path: "/proc/self/mem",
    "too long": lambda path: "/x" * 5000, "long name": lambda path: "x" * 300, "nul": lambda path: "a\x00b",
    "surrogate": lambda path: "a\udc80b", "empty": lambda path: "", "below a file": lambda path: f"{__file__}/x",
    "user": lambda path: "~nobody/x", "newline": lambda path: "a\nb",
}


TWICE = ("pretrain", "sft", "reward")  # name one file as two inputs here


@pytest.fixture(autouse=True, scope="module")
def no_ray() -> Iterator[None]:
    with without_ray():
        yield


def with_path(config: Any, path: str, marker: str) -> Iterator[Any]:
    """The config with `path` in place of each path in it, one at a time."""
    def places(tree: Any, prefix: tuple = ()) -> Iterator[tuple]:
        items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, value in items:
            yield from places(value, (*prefix, key))
        if isinstance(tree, str) and marker in tree:
            yield prefix

    for *above, last in places(config):
        changed = copy.deepcopy(config)
        place = changed
        for key in above:
            place = place[key]
        place[last] = path
        yield changed


@pytest.mark.parametrize("kind", PATHS)
def test_no_path_is_a_traceback_or_a_hang(
    kind: str, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    made = PATHS[kind](tmp_path / "odd.jsonl")
    refused = 0
    for name in NAMES:
        _, config_of = stages(tiny_models)[name]
        config = {**config_of(str(tiny_models.prompts)), "output": str(tiny_models.prompts.parent / "out")}
        for changed in with_path(config, str(made), str(tiny_models.prompts.parent)):
            code, lines = command(name.split()[0], changed, tmp_path)
            if len(lines) > 1:  # one for every input that is not there
                assert code == 2 and all(line.startswith("rlhf: ") and len(line) < 11_000 for line in lines)
            else:
                require_one_sentence(code, [line[:1000] for line in lines])
            refused += code == 2
    assert refused >= 20


@pytest.mark.parametrize("before", [True, False], ids=["before it is hashed", "after"])
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_vanishes_is_one_sentence(
    name: str, before: bool, tiny_models: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, config_of = stages(tiny_models)[name]
    path = tmp_path / "a.jsonl"
    shutil.copy(tiny_models.prompts, path)
    whole = artifacts.file_digest

    def vanishing(file: Path) -> str:
        if file != path:
            return whole(file)
        found = "" if before else whole(file)
        path.unlink()
        return found or whole(file)

    monkeypatch.setattr(artifacts, "file_digest", vanishing)
    code, lines = command(name.split()[0], {**config_of(str(path)), "output": str(tmp_path / "out")}, tmp_path)
    require_one_sentence(code, lines)
    assert code == 2 and str(path) in lines[0]
    missed = "not readable (No such file or directory)" if before else "no such data file"
    assert missed in lines[0] or (name in TWICE and "no such file or directory" in lines[0])
