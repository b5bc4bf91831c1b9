"""Configs: merging, overrides, validation, and what a person is told about every mistake at once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from rlhf.config import Config, dump, load, merge, parse_override, read_yaml, validate
from rlhf.errors import ConfigError
from rlhf.keys import describe


class Fixed(Config):
    """Stays."""

    kind: Literal["fixed"] = "fixed"
    coef: float = Field(0.1, ge=0, description="per nat")


class Adaptive(Config):
    """Follows a target."""

    kind: Literal["adaptive"]
    target: float = Field(gt=0)


class Optimizer(Config):
    """How a model learns."""

    learning_rate: float = Field(1e-3, gt=0, description="peak")
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int | None = None
    patience_s: float = 1.0


class Run(Config):
    """Everything."""

    output: Path = Field(description="where it goes")
    steps: int = Field(10, gt=0)
    shuffle: bool = True
    files: list[str] = Field([])
    optimizer: Optimizer = Optimizer()
    control: Annotated[Fixed | Adaptive, Field(discriminator="kind")] = Fixed()


def refusal(content: dict) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Run, content)
    return str(caught.value).splitlines()


def test_files_merge_left_to_right_and_overrides_come_last(tmp_path: Path) -> None:
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("output: a\nsteps: 3\noptimizer: {learning_rate: 0.1, warmup: 5}\nfiles: [x, y]\n")
    second.write_text("steps: 4\noptimizer: {learning_rate: 0.2}\nfiles: [z]\n")
    found = load(Run, [first, second], ["optimizer.warmup=7", "output=b"])
    assert found == Run(
        output=Path("b"), steps=4, files=["z"], optimizer=Optimizer(learning_rate=0.2, warmup=7)
    ), "mappings merge, a list is replaced whole"


def test_a_section_of_another_kind_is_replaced_whole() -> None:
    base = {"control": {"kind": "fixed", "coef": 0.5}}
    assert merge(base, {"control": {"kind": "adaptive", "target": 2}})["control"] == {"kind": "adaptive", "target": 2}
    assert merge(base, {"control": {"kind": "fixed"}})["control"] == {"kind": "fixed", "coef": 0.5}
    assert merge(base, {"control": {"coef": 0.7}})["control"] == {"kind": "fixed", "coef": 0.7}


leaves = st.one_of(st.integers(), st.booleans(), st.text("abc", min_size=1), st.none())
trees = st.recursive(leaves, lambda inner: st.dictionaries(st.text("xyz", min_size=1), inner), max_leaves=8)


@given(st.dictionaries(st.text("xyz", min_size=1), trees), st.dictionaries(st.text("xyz", min_size=1), trees))
def test_merging_is_repeatable_and_never_writes_into_its_arguments(base: dict, update: dict) -> None:
    before = yaml.safe_dump([base, update])
    merged = merge(base, update)
    assert merge(merged, update) == merged
    assert merge(base, {}) == base
    assert yaml.safe_dump([base, update]) == before


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=x", {"a": {"b": {"c": "x"}}}),
        ("a=1e-6", {"a": 1e-6}),
        ("a=-2E3", {"a": -2000.0}),
        ("a=[1, two]", {"a": [1, "two"]}),
        ("a={kind: fixed, coef: 0.1}", {"a": {"kind": "fixed", "coef": 0.1}}),
        ("a=null", {"a": None}),
        ("a=", {"a": None}),
        ("a=x=y", {"a": "x=y"}),
        ("a=[not: closed", {"a": "[not: closed"}),
    ],
)
def test_an_override_is_read_as_yaml(text: str, expected: dict) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["steps", "=3", "a..b=1", ".a=1"])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"write it as key\.sub=value"):
        parse_override(text)


def test_every_problem_is_told_at_once_with_its_path() -> None:
    assert refusal({
        "stpes": 3, "shuffle": "perhaps", "optimizer": {"learning_rate": -1, "momentum": 0.9},
        "control": {"kind": "adaptive", "target": "high", "coef": 1},
    }) == [
        "output: required, but not given",
        "shuffle: should be a valid boolean (got 'perhaps')",
        "optimizer.learning_rate: should be greater than 0 (got -1)",
        "optimizer.momentum: unknown key; known here: betas, learning_rate, patience_s, warmup",
        "control.target: should be a valid number (got 'high')",
        "control.coef: unknown key; known here: kind, target",
        "stpes: unknown key, did you mean 'steps'?",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"steps": "many"}, "steps: should be a valid integer (got 'many')"),
        ({"steps": 1.5}, "steps: should be a valid integer, got a number with a fractional part (got 1.5)"),
        ({"steps": True}, "steps: should be a valid integer (got 'true')"),
        ({"optimizer": {"warmup": False}}, "optimizer.warmup: should be a valid integer (got 'false')"),
        ({"steps": 2**31}, "steps: should be less than or equal to 2147483647 (got 2147483648)"),
        (
            {"optimizer": {"warmup": 2**31}},
            "optimizer.warmup: should be less than or equal to 2147483647 (got 2147483648)",
        ),
        (
            {"optimizer": {"patience_s": 1e10}},
            "optimizer.patience_s: should be less than or equal to 1000000 (got 10000000000.0)",
        ),
        ({"steps": None}, "steps: should be a valid integer (got None)"),
        ({"steps": [3]}, "steps: should be a valid integer (got [3])"),
        ({"files": "x"}, "files: should be a valid list (got 'x')"),
        ({"files": ["x", 3]}, "files.1: should be a valid string (got 3)"),
        ({"optimizer": 3}, "optimizer: should be a valid dictionary or instance of Optimizer (got 3)"),
        ({"optimizer": {"betas": [0.9]}}, "optimizer.betas.1: required, but not given"),
        ({"control": {"kind": "adaptiv"}}, "control.kind: 'adaptiv' is unknown, did you mean 'adaptive'?"),
        ({"control": {"kind": "none"}}, "control.kind: 'none' is unknown; known here: adaptive, fixed"),
        ({"control": {"coef": 0.2}}, "control.kind: required, but not given; one of adaptive, fixed"),
        ({"control": {"kind": "adaptive"}}, "control.target: required, but not given"),
        ({"optimizer": {"learning_rat": 1}}, "optimizer.learning_rat: unknown key, did you mean 'learning_rate'?"),
    ],
)
def test_one_problem_is_one_line(content: dict, expected: str) -> None:
    assert refusal({"output": "o", **content}) == [expected]


def test_a_number_may_be_written_without_a_point(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("output: o\noptimizer: {learning_rate: 1e-6}\n")
    assert load(Run, [path]).optimizer.learning_rate == 1e-6
    assert read_yaml(path)["optimizer"] == {"learning_rate": 1e-6}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("steps: 3\nfiles: [a\nsteps: 4\n", "run.yaml:3: not valid YAML: "),
        ("steps: 3\nsteps: 4\n", "run.yaml:2: not valid YAML: key 'steps' stands twice"),
        ("optimizer:\n  learning_rate: 1\n  learning_rate: 2\n", "run.yaml:3: not valid YAML: key 'learning_rate'"),
        ("\tsteps: 3\n", "run.yaml:1: not valid YAML: "),
        ("- steps\n", "run.yaml: a config file holds a mapping of keys, this one holds a list"),
        ("steps\n", "run.yaml: a config file holds a mapping of keys, this one holds a str"),
    ],
)
def test_a_file_that_is_no_config_is_named_with_its_line(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value).startswith(f"{tmp_path}/{expected}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: no such config file"):
        read_yaml(tmp_path / "absent.yaml")
    with pytest.raises(ConfigError, match="not readable as a config file"):
        read_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes("output: caf\xe9\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin\.yaml: not readable as a config file .*utf-8"):
        read_yaml(tmp_path / "latin.yaml")


def test_an_empty_file_adds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_the_resolved_config_spells_out_every_default_and_reads_back(tmp_path: Path) -> None:
    config = validate(Run, {"output": "o", "control": {"kind": "adaptive", "target": 2}, "files": ["数据.jsonl"]})
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    assert load(Run, [path]) == config
    optimizer = {"learning_rate": 0.001, "betas": [0.9, 0.95], "warmup": None, "patience_s": 1.0}
    assert read_yaml(path)["optimizer"] == optimizer
    assert "数据.jsonl" in path.read_text(encoding="utf-8")


def test_keys_are_listed_with_type_default_and_meaning() -> None:
    assert list(describe(Run)) == [
        "output: path (required)   where it goes",
        "steps: integer = 10",
        "shuffle: true | false = true",
        "files: list of text = []",
        "optimizer:  # How a model learns.",
        "optimizer.learning_rate: number = 0.001   peak",
        "optimizer.betas: [number, number] = [0.9, 0.95]",
        "optimizer.warmup: integer | null = null",
        "optimizer.patience_s: number = 1.0",
        "control:  # Stays.",
        "control.kind: fixed = fixed",
        "control.coef: number = 0.1   per nat",
        "control:  # Follows a target.",
        "control.kind: adaptive (required)",
        "control.target: number (required)",
    ]
