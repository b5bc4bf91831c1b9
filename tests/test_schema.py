"""JSON Schemas of config files: what a run takes they take, in one file or in parts; what is misspelt they refuse."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from rlhf.cli import STAGES, load_object, main
from rlhf.config import read_yaml
from rlhf.pipeline import PipelineConfig
from rlhf.schema import DIALECT, file_schema, pipeline_schema

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
FILES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("**/*.yaml"))
NAMES = [*STAGES, "run"]


@cache
def validator(stage: str) -> Draft202012Validator:
    models = {name: load_object(row.config) for name, row in STAGES.items()}
    schema = pipeline_schema(PipelineConfig, models) if stage == "run" else file_schema(models[stage])
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


def problems(stage: str, content: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(stage).iter_errors(content)]


def stage_of(file: str) -> str:
    """Which stage a file of configs/ is for: overlays are PPO's, the others are named after their stage."""
    if "stages" in read_yaml(CONFIGS / file):
        return "run"
    first = Path(file).stem.split("_")[0]
    return first if first in STAGES else "ppo"


def sections(content: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where keys are fixed: the paths of a config's nested mappings, those with names of the user's own left out."""
    yield path
    for key, value in content.items():
        if isinstance(value, dict) and key not in ("sources", "parts", "domains"):
            yield from sections(value, (*path, key))


def at(content: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        content = content[key]
    return content


@pytest.mark.parametrize("file", FILES)
def test_every_shipped_config_is_valid(file: str) -> None:
    assert problems(stage_of(file), read_yaml(CONFIGS / file)) == []


@pytest.mark.parametrize("file", FILES)
def test_a_misspelt_key_is_refused_in_every_section_of_every_shipped_config(file: str) -> None:
    content = read_yaml(CONFIGS / file)
    for path in sections(content):
        wrong = copy.deepcopy(content)
        at(wrong, path)["learnin_rate"] = 1
        assert problems(stage_of(file), wrong), ".".join(path)


@pytest.mark.parametrize(
    ("stage", "content"),
    [
        ("ppo", {"steps": "many"}),
        ("ppo", {"steps": 0}),
        ("ppo", {"loop": {"kind": "sometimes"}}),
        ("ppo", {"loop": {"kind": "synchronous", "staleness": 1}}),  # another kind's key
        ("ppo", {"policy": None}),
        ("run", {"stages": {"pppo": {}}}),
        ("run", {"stages": {"ppo": {"steps": True}}}),
        ("run", {"stages": []}),
        ("sft", []),
    ],
)
def test_wrong_values_are_refused(stage: str, content: Any) -> None:
    assert problems(stage, content)


@pytest.mark.parametrize(
    ("stage", "content"),
    [
        ("ppo", {}),
        ("ppo", {"policy": {"optimizer": {"learning_rate": 1e-6}}}),  # policy.model stands elsewhere
        ("ppo", {"loop": {"staleness": 2}}),  # loop.kind does
        ("run", {"stages": {"sft": {"model": "@pretrain", "output": "elsewhere", "seed": 3}}}),
    ],
)
def test_a_file_may_be_a_part(stage: str, content: Any) -> None:
    assert problems(stage, content) == []


@pytest.mark.parametrize("name", STAGES)
def test_what_a_whole_config_must_have_is_told(name: str) -> None:
    model = load_object(STAGES[name].config)
    schema = validator(name).schema
    fields = schema["$defs"][schema["$ref"].rpartition("/")[2]]["properties"]
    told = {key for key, field in fields.items() if field.get("description", "").startswith("required")}
    assert told == {key for key, field in model.model_fields.items() if field.is_required()}
    assert set(fields) == set(model.model_fields)


def run(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["config", "schema", *words])
    return ended.value.code or 0


@pytest.mark.parametrize("name", NAMES)
def test_the_command_prints_it(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(name) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == validator(name).schema
    assert printed["$schema"] == DIALECT


def test_the_command_writes_one_file_per_stage(tmp_path: Path) -> None:
    assert run("--output", str(tmp_path / "new" / "schemas")) == 0
    written = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in tmp_path.glob("new/schemas/*.json")}
    assert written == {name: validator(name).schema for name in NAMES}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a stage or 'run' to print its schema, or give --output DIRECTORY"),
        (["ppo", "--output", "schemas"], "--output writes those of all stages; leave out ppo or --output"),
        (["pp"], "'pp': unknown stage, did you mean 'ppo'?"),
        (["--output", __file__], "not writable (File exists); name another place"),
    ],
)
def test_what_cannot_be_done_is_told(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    assert said in capsys.readouterr().err
