"""A real run in a network that leads nowhere: it needs none, sends nothing, and leaves no secret in what it writes."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rlhf import NO_TELEMETRY
from tests.end_to_end.enclosed import CONTROL, Seen
from tests.limits import HANG_S

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
WHICH_CLOUD = ("169.254.169.254", "name metadata.google.internal")
OWN_NAME = "name 1.0.0.127.in-addr.arpa"
SECRETS = ("RAY_AUTH_TOKEN", "HF_TOKEN", "JUDGE", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD")
FUNCTION = """
import json, os
from pathlib import Path

def score(sample):
    Path({path!r}).write_text(json.dumps(dict(os.environ)))
    return float(len(sample.response))
"""
LOOPBACK = ("127.", "::1:", "::ffff:127.")
# Who may listen beyond loopback: torch's store of a Ray Train job, which Ray Train starts. No role, nor Ray itself.
MAY_LISTEN_EVERYWHERE = "ray::RayTrainWorker"


@dataclass(frozen=True)
class Enclosed:
    """A run that has ended: what it wrote, what was seen of it, and the values that were planted."""

    directory: Path
    ray_files: Path
    seen: Seen
    planted: dict[str, str]

    def all_files(self) -> Iterator[Path]:
        for root in (self.directory, self.ray_files):
            yield from (path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


@pytest.fixture(scope="module")
def enclosed(tiny_models, tmp_path_factory) -> Iterator[Enclosed]:
    """A pipeline of SFT and PPO, its reward a model, a function and a service."""
    directory = tmp_path_factory.mktemp("enclosed")
    ray_files = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets lie below it: their paths must be short
    planted = {name: secrets.token_hex(32) for name in SECRETS}
    (directory / "mine.py").write_text(FUNCTION.format(path=str(directory / "variables.json")))
    (directory / "pipeline.yaml").write_text(yaml.safe_dump(pipeline(tiny_models, directory), sort_keys=False))
    # As a user has them: nothing that this test session set, and no CI, which TRL would take as a reason for silence.
    unset = ("RAY_", "HF_", "VLLM_", "CI", *NO_TELEMETRY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(unset)}
    environment = {**kept, **planted, "RAY_AUTH_MODE": "token", "RAY_TMPDIR": str(ray_files)}
    command = [
        sys.executable, "-m", "tests.end_to_end.enclosed", str(directory / "seen.json"),
        sys.executable, "-m", "tests.end_to_end.closed_in", str(directory),
    ]
    ended = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=HANG_S)
    if "no network namespace can be made" in ended.stderr and not os.environ.get("CI"):
        pytest.skip("neither root nor user namespaces: no network of its own can be made here")
    assert ended.returncode == 0, ended.stderr[-3000:]
    seen = Seen(**json.loads((directory / "seen.json").read_text()))
    yield Enclosed(directory, ray_files, seen, planted)
    shutil.rmtree(ray_files, ignore_errors=True)


def pipeline(models, directory: Path) -> dict:
    """As small as it can be, on every kind of engine."""
    one, share = {"resources": {"cpus": 0.25}}, {"cpus": 0.25}
    learner = {**one, "zero": {"stage": 2}, "optimizer": {"learning_rate": 1e-3}}
    texts = directory / "sft.jsonl"
    turns = ({"messages": [{"role": "user", "content": f"{k} 请排序"}, {"role": "assistant", "content": str(k)}],
              "lang": "zh"} for k in range(48))
    texts.write_text("".join(json.dumps(each) + "\n" for each in turns))
    parts = {
        "judge": {"kind": "http", "url": "http://127.0.0.1:1/", "token_env": "JUDGE", "weight": 0.1},
        "mine": {"kind": "function", "file": str(directory / "mine.py"), "function": "score", "weight": 0.1},
    }
    training = {"batch_size": 16, "micro_batch_size": 8, "max_steps": 2, "eval_every": 1, "log_every": 1,
                "workers": {"count": 1}}
    return {
        "run_dir": str(directory / "run"), "cluster": {"cpus": 4, "object_store_gib": 0.5},
        "stages": {
            "sft": {"model": str(models.tied), "train": [str(texts)], "validation": [str(texts)], "max_length": 64,
                    "training": training},
            "ppo": {
                "prompts": str(models.prompts), "steps": 2, "policy": {"model": "@sft", **learner},
                "critic": {"model": str(models.reward), **learner}, "reference": {"model": "@sft", **one},
                "reward": {"model": str(models.reward), "parts": parts, **one},
                "rollout": {"prompts_per_step": 8, "max_new_tokens": 8, "max_model_len": 128, "max_sequences": 8,
                            "resources": {**share, "threads": 1}},
                "checkpoint_every": 1, "transcripts_every": 1,
            },
            "report": {"run_dir": str(directory / "run"), "artifacts": ["@ppo"]},
        },
    }


def test_a_run_needs_no_network(enclosed: Enclosed) -> None:
    said = (enclosed.directory / "output.log").read_text()
    assert enclosed.seen.code == 0, said[-3000:]
    assert all((enclosed.directory / "run" / name / "manifest.json").is_file() for name in ("sft", "ppo", "report"))


def test_a_run_sends_nothing(enclosed: Enclosed) -> None:
    """But that Ray's head asks its own machine's cloud which one it is, also with its reports switched off, and that
    the name of 127.0.0.1 is asked for."""
    assert set(enclosed.seen.control) == set(CONTROL)
    other = [sent for sent in enclosed.seen.packets if not sent.startswith((*WHICH_CLOUD, OWN_NAME))]
    assert other == []


def test_no_secret_is_in_what_a_run_writes_and_says(enclosed: Enclosed) -> None:
    """Its directories, its output, and Ray's own files and logs."""
    files = [path for path in enclosed.all_files() if path.name != "variables.json"]
    assert len(files) > 50 and any(path.name == "gcs_server.out" for path in files)
    holding = [
        f"{path} holds {name}" for path in files for name, value in enclosed.planted.items()
        if value.encode() in path.read_bytes()
    ]
    assert holding == []


def test_no_secret_is_on_a_command_line(enclosed: Enclosed) -> None:
    """Which every user of the machine can read."""
    assert len(enclosed.seen.command_lines) > 10
    assert not [line for line in enclosed.seen.command_lines for value in enclosed.planted.values() if value in line]


def test_the_users_function_sees_no_secret(enclosed: Enclosed) -> None:
    variables = json.loads((enclosed.directory / "variables.json").read_text())
    assert variables["PATH"] and not set(variables.values()) & set(enclosed.planted.values())
    assert not set(variables) & set(SECRETS)


def test_who_has_not_the_token_is_refused(enclosed: Enclosed) -> None:
    """By the cluster that the run started for itself."""
    answers = json.loads((enclosed.directory / "strangers.json").read_text())
    assert answers == {"another token": "refused", "no token": "refused", "its token": "let in"}


def test_what_listens(enclosed: Enclosed) -> None:
    """Everything on loopback, Ray's own servers among it; there is no dashboard."""
    assert any("gcs_server" in owner for owner in enclosed.seen.listening.values())
    beyond = {place: owner for place, owner in enclosed.seen.listening.items() if not place.startswith(LOOPBACK)}
    assert {place: owner for place, owner in beyond.items() if not owner.startswith(MAY_LISTEN_EVERYWHERE)} == {}
    assert not [place for place in enclosed.seen.listening if place.endswith(":8265")]
