"""The command line: quick help, keys, exit codes, and one line for each mistake."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from rlhf import cli
from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.stage import StageConfig
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "ray", "transformers", "vllm", "deepspeed", "trl", "datasets", "pandas", "plotly", "numpy", "pyarrow")


def rlhf(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rlhf", *arguments], cwd=ROOT, env={**os.environ, **environment}, text=True,
        capture_output=True, timeout=HANG_S, check=False,
    )


def refusal(*arguments: str) -> list[str]:
    """What a command that is refused says, in the process of the test."""
    done = rlhf(*arguments)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    return done.stderr.splitlines()


HELP = [
    ["--help"], ["ppo", "--help"], ["cluster", "render", "--help"], ["keys", "ppo"], ["config", "schema", "ppo"], [],
]


@pytest.mark.parametrize("arguments", HELP)
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    """The clock would measure this machine; what is loaded decides whether help comes in under a second."""
    code = (
        "import json, sys\nfrom rlhf.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        "json.dump(sorted(sys.modules), sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=True
    )
    loaded = set(json.loads(done.stderr))
    assert not loaded & set(HEAVY)
    assert not {name for name in loaded if name.startswith(("actors", "rlhf.training", "rlhf.report", "rlhf.tasks"))}
    assert done.stdout


def test_help_names_every_command() -> None:
    text = rlhf("--help", COLUMNS="200").stdout
    for name, stage in cli.STAGES.items():
        assert f" {name} " in text and stage.summary in text
    assert " run " in text and " keys " in text


def test_the_script_and_the_module_are_the_same_command() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"rlhf": "rlhf.cli:main"}
    assert cli.load_object(scripts["rlhf"]) is cli.main
    script = subprocess.run(
        [sys.executable, "-c", "import sys; from rlhf.cli import main; sys.exit(main())", "ppo", "x"],
        cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=False,
    )
    module = rlhf("ppo", "x")
    assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)


@pytest.mark.parametrize("name", cli.STAGES)
def test_every_stage_has_a_config_a_run_and_its_keys(name: str) -> None:
    stage = cli.STAGES[name]
    model = cli.load_object(stage.config)
    assert issubclass(model, StageConfig)
    assert find_spec(stage.run.partition(":")[0]) is not None
    done = rlhf("keys", name)
    assert done.returncode == 0
    assert "output: path (required)   directory that the stage publishes" in done.stdout.splitlines()
    for line in done.stdout.splitlines():
        assert line.split(":")[0].replace(".", "").replace("_", "").isalnum()


@pytest.mark.parametrize("name", cli.STAGES)
def test_every_key_that_is_listed_is_known(name: str) -> None:
    """Each listed path, given alone, is never refused as unknown; where a section has kinds, with one of them."""
    model = cli.load_object(cli.STAGES[name].config)
    for line in rlhf("keys", name).stdout.splitlines():
        try:
            validate(model, cli.configs.parse_override(f"{line.split(':')[0]}=["))
        except ConfigError as problem:
            assert "unknown key" not in str(problem), line


def test_keys_of_a_pipeline_and_of_nothing() -> None:
    assert "run_dir: path (required)" in rlhf("keys", "run").stdout
    assert refusal("keys", "pp") == ["rlhf: 'pp': unknown stage, did you mean 'ppo'?"]
    assert refusal("keys") == ["rlhf: Missing argument 'stage'; see 'rlhf keys --help'"]


def test_no_arguments_show_the_help() -> None:
    done = rlhf()
    assert done.returncode == 0 and "Usage: rlhf" in done.stdout


def test_an_unknown_stage_is_one_sentence() -> None:
    assert refusal("ppoo", "x.yaml") == ["rlhf: 'ppoo': unknown stage, did you mean 'ppo'?"]
    (line,) = refusal("finetune")
    assert line.startswith("rlhf: 'finetune': unknown stage; known here: checkpoints, cluster, compare, config, data, ")


def test_a_word_that_is_neither_file_nor_override_is_one_sentence() -> None:
    assert refusal("ppo", "configs/ppo") == [
        "rlhf: 'configs/ppo': neither a config file (….yaml) nor an override (key.sub=value)"
    ]
    assert refusal("ppo", "--steps", "3")[0].startswith("rlhf: No such option: --steps")
    assert refusal("ppo", "absent.yaml") == ["rlhf: absent.yaml: no such config file"]


def test_a_file_that_is_no_yaml_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("steps: 2\nprompts: {a\n")
    (line,) = refusal("ppo", str(path))
    assert line.startswith(f"rlhf: {path}:3: not valid YAML: ")


def test_a_stage_without_anything_says_what_it_needs() -> None:
    needed = ("output", "model", "train", "validation")
    assert refusal("sft") == [f"rlhf: {key}: required, but not given" for key in needed]


def test_mistakes_in_keys_and_types_are_told_all_at_once() -> None:
    lines = refusal(
        "ppo", "output=o", "prompts=p", "policy.model=m", "critic.model=m", "reference.model=m", "reward.model=m",
        "steps=many", "rollout.max_new_token=4", "policy.zero.stage=5", "kl.control.kind=adaptiv", "ppo.epochs=yes",
    )
    assert lines == [
        "rlhf: steps: should be a valid integer (got 'many')",
        "rlhf: policy.zero.stage: should be 0, 1, 2 or 3 (got 5)",
        "rlhf: rollout.max_new_token: unknown key, did you mean 'max_new_tokens'?",
        "rlhf: ppo.epochs: should be a valid integer (got 'true')",
        "rlhf: kl.control.kind: 'adaptiv' is unknown, did you mean 'adaptive'?",
    ]


def test_a_relative_output_in_a_job_is_refused() -> None:
    """Ray sets this variable in the process of a submitted job; a stage without Ray loses its output there, too."""
    alone, pipeline = ["report", "output=out/report", "run_dir=out"], ["run", "run_dir=out", "stages.report.run_dir=x"]
    for arguments in (alone, pipeline):
        done = rlhf(*arguments, RAY_JOB_CONFIG_JSON_ENV_VAR="{}")
        assert done.returncode == 2
        assert "is relative, and this job's working directory is a temporary copy that is deleted" in done.stderr
    assert not (ROOT / "out").exists()


def test_an_error_of_ours_keeps_its_traceback_and_is_code_1() -> None:
    code = "import rlhf.cli as cli\ncli.STAGES = 3\ncli.main(['ppo', 'x=1'])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, timeout=HANG_S, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "TypeError" in done.stderr
