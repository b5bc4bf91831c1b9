"""`rlhf run` of a pipeline that is sent SIGTERM in one of its stages, as by a scheduler that takes the machine away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from rlhf.metrics import read_json_lines
from tests.limits import HANG_S, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.exhaustive]  # stages by themselves: test_train_stages.py, test_agreement.py
ROOT = Path(__file__).resolve().parents[2]
STEPS = 8


@pytest.fixture
def command(tiny_models: Any, tmp_path: Path) -> list[str]:
    """Data, and SFT on a cluster of the command's own."""
    sizes = {"text_train": 40, "text_validation": 10, "sft_train": 48, "sft_validation": 8, "prompts_train": 20}
    training = {
        "batch_size": 8, "micro_batch_size": 8, "epochs": 2, "max_steps": STEPS, "log_every": 1, "eval_every": 4,
        "early_stop_patience": None, "workers": {"count": 1},
    }
    content = {
        "run_dir": str(tmp_path / "run"), "cluster": {"cpus": 2, "object_store_gib": 0.3},
        "stages": {
            "data": {"source": {"kind": "tasks", **sizes, "prompts_heldout": 10}},
            "sft": {
                "model": str(tiny_models.tied), "train": ["@data/sft_train.jsonl"],
                "validation": ["@data/sft_validation.jsonl"], "max_length": 64, "training": training,
            },
        },
    }
    (tmp_path / "pipeline.yaml").write_text(yaml.safe_dump(content))
    return [sys.executable, "-m", "rlhf", "run", str(tmp_path / "pipeline.yaml")]


def test_it_ends_with_a_checkpoint_and_the_same_command_goes_on(command: list[str], tmp_path: Path) -> None:
    run, log = tmp_path / "run", tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}

    def start() -> subprocess.Popen:
        with open(log, "w") as stream:
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=stream, stderr=stream)

    def steps() -> list[int]:
        path = run / "sft" / "metrics.jsonl"
        return [row["step"] for row in read_json_lines(path if path.exists() else run / "sft.work" / "metrics.jsonl")]

    asked = start()
    wait_until(steps, lambda: asked.poll() is None)
    asked.terminate()
    assert asked.wait(HANG_S) == 143, log.read_text()
    assert "sft: ended on SIGTERM after step" in log.read_text()
    assert not (run / "sft").exists()
    data = (run / "data" / "manifest.json").read_bytes()
    assert start().wait(HANG_S) == 0, log.read_text()
    assert steps() == list(range(1, STEPS + 1))
    assert (run / "data" / "manifest.json").read_bytes() == data, "a stage that was done is not done again"
