"""Generated configs through the command line: each is taken, or refused in sentences. Never a traceback."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf import cli
from rlhf.config import read_yaml

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("data", "tokenizer", "pretrain", "sft", "pairs", "reward", "ppo", "evaluate", "report")
ODD = (
    None, True, False, 0, -1, 1, 2**70, -(2**70), 1e308, -1e-308, float("nan"), float("inf"), "", " ", "x" * 5000,
    "雪", "a\x00b", "@nowhere/x", "@", "../../etc", "/", "1", "null", "${HOME}", [], [[]], {}, {"kind": "none"},
    {"kind": None}, {"": 1}, [None], {"a": {"b": {"c": 1}}}, 10**400,
)
odd = st.sampled_from(ODD).map(copy.deepcopy) | st.text(max_size=8) | st.integers() | st.floats()


def sections() -> dict[str, dict[str, Any]]:
    """A config of each stage that stands: those of the demo's pipeline, and the profiles."""
    found = {name: dict(section) for name, section in read_yaml(ROOT / "configs" / "pipeline.yaml")["stages"].items()}
    found["ppo"] = read_yaml(ROOT / "configs" / "ppo.yaml")
    return found


BASES = sections()


def paths(tree: Any, prefix: tuple = ()) -> Iterator[tuple]:
    """Every key of a tree of mappings and lists."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*prefix, key)
        yield from paths(value, (*prefix, key))


@st.composite
def broken(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A stage's config with one to four changes: another value, a key too few, a key too many, a key misspelt."""
    stage = draw(st.sampled_from(sorted(BASES)))
    tree = copy.deepcopy(BASES[stage]) | {"output": "out"}
    for _ in range(draw(st.integers(1, 4))):
        known = list(paths(tree))
        if not known:
            break
        *above, last = draw(st.sampled_from(known))
        place = tree
        for key in above:
            place = place[key]
        change = draw(st.sampled_from(("value", "value", "value", "remove", "add", "misspell", "replace section")))
        if change == "value":
            place[last] = draw(odd)
        elif change == "remove":
            del place[last]
        elif change == "replace section":
            tree[str(draw(st.sampled_from(sorted(map(str, tree)))))] = draw(odd)
        elif isinstance(place, dict):
            name = draw(st.text(min_size=1, max_size=6)) if change == "add" else str(last)[:-1] + "x"
            place[name] = draw(odd)
    return stage, tree


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configs")


class Reached(Exception):
    """The config was taken: the stage would begin."""


def say(*words: str) -> tuple[object, str]:
    """How the command ended, and what it said on stderr; a stage that would begin does not."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main(words)
        except SystemExit as ended:
            return ended.code, said.getvalue()
        except Reached:
            return 0, said.getvalue()
    raise AssertionError("the command returned")


def require_sentences(code: object, said: str) -> None:
    assert code in (0, 2, None), (code, said)
    lines = said.splitlines()
    assert all(line.startswith("rlhf: ") and len(line) < 3000 for line in lines), said
    assert (code == 2) == bool(lines), (code, said)


def test_any_config_is_taken_or_refused_in_sentences(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*_: object) -> None:
        raise Reached

    monkeypatch.setattr(cli, "require_runnable", begin)
    ends = {0: 0, 2: 0}

    @settings(max_examples=1500)
    @given(broken())
    def one(case: tuple[str, dict[str, Any]]) -> None:
        stage, tree = case
        path = files / "config.yaml"
        path.write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        code, said = say(stage, str(path))
        require_sentences(code, said)
        ends[2 if code == 2 else 0] += 1

    one()
    assert ends[2] > 300 and ends[0] > 50, ends


@settings(max_examples=300)
@given(text=st.binary(max_size=60) | st.text(alphabet="{}[]:-&*!|>%@`\"' \n\tab\x00", max_size=40).map(str.encode))
def test_any_bytes_are_a_config_or_no_config(files: Path, text: bytes) -> None:
    path = files / "bytes.yaml"
    path.write_bytes(text)
    code, said = say("data", str(path), "output=")
    require_sentences(code, said)
    assert code == 2


@settings(max_examples=400)
@given(word=st.text(max_size=12), value=st.text(max_size=12) | st.sampled_from(ODD).map(str))
def test_any_override_is_taken_or_refused_in_sentences(files: Path, word: str, value: str) -> None:
    code, said = say("ppo", f"{word}={value}")
    require_sentences(code, said)
    assert code == 2  # of a run that has no policy, whatever else is said
