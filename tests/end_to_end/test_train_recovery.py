"""Ray Train jobs that lose workers where little is at hand: between two lines of metrics, with early stopping under
way, after the last checkpoint; and workers that hang."""

from __future__ import annotations

import json
import random
import re
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import Artifact
from rlhf.config import validate
from rlhf.metrics import read_json_lines
from rlhf.stages import reward
from rlhf.training import ray_train
from tests.chaos.train_worker import SLEEP, WorkerBlow, dealt, plan, run_struck_worker
from tests.end_to_end.jobs import context_of

pytestmark = pytest.mark.slow
TRAINING = {
    "micro_batch_size": 8, "batch_size": 16, "log_every": 3, "eval_every": 2, "learning_rate": 0.3,
    "schedule": "constant", "warmup_ratio": 0.0, "early_stop_patience": 2, "max_failures": 2,
    "deepspeed": {"zero_stage": 0},
}
Train = Callable[..., Artifact]


class Said:
    """A progress display that remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that a model can tell apart by their first word."""
    directory, draw = tmp_path_factory.mktemp("pairs"), random.Random(0)
    for part, count in (("train", 400), ("validation", 20)):
        with open(directory / f"{part}.jsonl", "w", encoding="utf-8") as stream:
            for _ in range(count):
                good, bad = (f"{word}{' 12' * draw.randint(1, 6)}" for word in ("yes", "no"))
                pair = {"prompt": f"Is {draw.randint(0, 99)} a number?", "chosen": good, "rejected": bad, "lang": "en"}
                stream.write(json.dumps(pair) + "\n")
    return directory


@pytest.fixture
def said() -> Said:
    return Said()


@pytest.fixture
def trained(ray_cluster: str, tiny_models: Any, examples: Path, tmp_path: Path, monkeypatch: Any, said: Said) -> Train:
    """A reward model, whose lines have most means, at a rate that soon wrecks it: it stops early, two validations after
    its best one."""

    def train(name: str, blows: Sequence[WorkerBlow] = (), **settings: Any) -> Artifact:
        config = validate(reward.RewardConfig, {
            "output": str(tmp_path / name), "model": str(tiny_models.tied), "max_length": 64,
            "train": [str(examples / "train.jsonl")], "validation": [str(examples / "validation.jsonl")],
            "training": {**TRAINING, **settings},
        })
        with monkeypatch.context() as patch:
            if blows:
                plan(tmp_path / f"{name}.work", blows)
                patch.setattr(ray_train, "run_worker", run_struck_worker)
            return reward.run(config, replace(context_of(config.output), progress=said))

    return train


def require_alike(broken: Artifact, whole: Artifact) -> None:
    assert read_json_lines(broken.path / "metrics.jsonl") == read_json_lines(whole.path / "metrics.jsonl")
    assert broken.manifest.files["model.safetensors"] == whole.manifest.files["model.safetensors"]


def test_a_loss_changes_no_mean_of_a_line_no_patience_and_no_end(trained: Train, tmp_path: Path, said: Said) -> None:
    """Checkpoints come between the lines of metrics. The second blow falls when all is done but the leaving."""
    whole = trained("whole")
    rows = read_json_lines(whole.path / "metrics.jsonl")
    assert all({"accuracy", "margin"} <= row.keys() for row in rows if "loss" in row)
    end = rows[-1]["step"]
    assert whole.metrics["best_step"] == end - 4 and end < whole.metrics["steps"] - 4, "it has stopped early"
    said.notes.clear()
    broken = trained("broken", [WorkerBlow(1, end - 1, "update"), WorkerBlow(0, end, "end")])
    first, last = dealt(tmp_path / "broken.work")
    assert first.resumed == end - 2
    assert last.pid is not None and last.lost_s is None, "it was not trained again: nothing was left to be done"
    require_alike(broken, whole)
    told = "\n".join(said.notes)
    assert re.search(
        rf"worker 1 was lost in the update of step {end - 1}: its process ended \(\w+\) \(loss 1 in this command\)|"
        r"worker 0 reaches another worker no more, which may be lost, in the update of step .*\(loss 1 in this c", told
    ), told
    assert re.search(rf"worker 0 was lost in the checkpoint of step {end}: .* \(loss 2 in this command\)", told), told


@pytest.mark.parametrize(("blow", "reason"), [
    (WorkerBlow(1, 5, "update", signal.SIGSTOP), "its process did not answer for 40 s"),
    (WorkerBlow(1, 5, "begin", SLEEP), r"it did not go on for \d\d s"),
], ids=["stopped", "waiting"])
def test_a_worker_that_hangs_is_named_and_replaced(
    trained: Train, tmp_path: Path, said: Said, blow: WorkerBlow, reason: str
) -> None:
    """As a whole, or answering Ray; the other one waits for it, and has waited less long."""
    broken = trained("broken", [blow], deadline_s=40.0, max_steps=6)
    (struck,) = dealt(tmp_path / "broken.work")
    assert struck.resumed == 4
    (told,) = [note for note in said.notes if "was lost" in note]
    assert re.match(
        rf"reward: worker 1 was lost in the update of step 5: {reason} \(where that is merely slow, raise "
        r"training.deadline_s = 40\) \(loss 1 in this command\)", told
    ), told
    require_alike(broken, trained("whole", max_steps=6))
