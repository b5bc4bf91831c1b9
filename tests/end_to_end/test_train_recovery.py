"""Ray Train jobs that lose workers where little is at hand: between two lines of metrics, with early stopping under
way, after the last checkpoint; workers that hang; and starts that come to nothing."""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlhf.artifacts import Artifact
from rlhf.config import validate
from rlhf.errors import ResourceError, RunError, Terminated
from rlhf.metrics import read_json_lines
from rlhf.stages import reward
from rlhf.training import ray_train
from tests.chaos.train_worker import SLEEP, WorkerBlow, dealt, plan, run_struck_worker
from tests.end_to_end.jobs import context_of, work_of
from tests.end_to_end.stopping_meeting import StoppingMeeting
from tests.limits import HANG_S, wait_until

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


@pytest.fixture(scope="module")
def trained(ray_cluster: str, tiny_models: Any, examples: Path) -> Train:
    """A reward model, whose lines have most means, at a rate that soon wrecks it: it stops early, two validations after
    its best one."""

    def train(output: Path, said: Said, blows: Sequence[WorkerBlow] = (), **settings: Any) -> Artifact:
        config = validate(reward.RewardConfig, {
            "output": str(output), "model": str(tiny_models.tied), "max_length": 64,
            "train": [str(examples / "train.jsonl")], "validation": [str(examples / "validation.jsonl")],
            "training": {**TRAINING, **settings},
        })
        with pytest.MonkeyPatch.context() as patch:
            if blows:
                plan(work_of(output), blows)
                patch.setattr(ray_train, "run_worker", run_struck_worker)
            return reward.run(config, replace(context_of(output), progress=said))

    return train


@pytest.fixture(scope="module")
def whole(trained: Train, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """Of a run that nothing disturbs."""
    said = Said()
    found = trained(tmp_path_factory.mktemp("whole") / "reward", said)
    rows = read_json_lines(found.path / "metrics.jsonl")
    assert all({"accuracy", "margin"} <= row.keys() for row in rows if "loss" in row)
    assert found.metrics["best_step"] == end_of(found) - 4 and end_of(found) < found.metrics["steps"], "it stops early"
    assert not [note for note in said.notes if "lost" in note]
    return found


def end_of(artifact: Artifact) -> int:
    return read_json_lines(artifact.path / "metrics.jsonl")[-1]["step"]


def require_alike(broken: Artifact, whole: Artifact) -> None:
    assert read_json_lines(broken.path / "metrics.jsonl") == read_json_lines(whole.path / "metrics.jsonl")
    assert broken.manifest.files["model.safetensors"] == whole.manifest.files["model.safetensors"]


def test_a_loss_changes_no_mean_of_a_line_no_patience_and_no_end(
    trained: Train, whole: Artifact, tmp_path: Path
) -> None:
    """Checkpoints come between the lines of metrics. The second blow falls when all is done but the leaving."""
    end, said = end_of(whole), Said()
    blows = [WorkerBlow(1, end - 1, "update"), WorkerBlow(0, end, "end")]
    broken = trained(tmp_path / "reward", said, blows)
    first, last = dealt(work_of(tmp_path / "reward"))
    assert first.resumed == end - 2
    assert last.pid is not None and last.lost_s is None, "it was not trained again: nothing was left to be done"
    require_alike(broken, whole)
    told = "\n".join(said.notes)
    assert re.search(
        rf"worker 1 was lost in the update of step {end - 1}: its process ended \(\w+\) \(loss 1 in this command\)|"
        r"worker 0 reaches another worker no more, which may be lost, in the update of step .*\(loss 1 in this c", told
    ), told
    assert re.search(rf"worker 0 was lost in the checkpoint of step {end}: .* \(loss 2 in this command\)", told), told


@pytest.mark.exhaustive  # tests/training/test_failures.py has who was lost where
def test_a_loss_that_comes_again_ends_the_job(trained: Train, whole: Artifact, tmp_path: Path) -> None:
    """Though more of them are allowed; the same command goes on."""
    twice = [WorkerBlow(1, 3, "update"), WorkerBlow(1, 3, "update")]
    said = r"reward: worker \d .* in the update of step 3: .* \(the second loss in a row in that phase of that step: an"
    with pytest.raises(RunError, match=said):
        trained(tmp_path / "reward", Said(), twice, max_failures=5)
    assert all(blow.pid is not None for blow in dealt(work_of(tmp_path / "reward")))
    assert not (tmp_path / "reward").exists()
    require_alike(trained(tmp_path / "reward", Said(), max_failures=5), whole)


@pytest.mark.exhaustive  # tests/training/test_standing.py has the watch by itself
@pytest.mark.parametrize(("phase", "signal_", "reason"), [
    pytest.param("update", signal.SIGSTOP, "its process did not answer for 60 s", id="stopped"),
    pytest.param("begin", SLEEP, r"it did not go on for \d\d s", id="waiting"),
])
def test_a_worker_that_hangs_is_named_and_replaced(
    trained: Train, whole: Artifact, tmp_path: Path, phase: str, signal_: int, reason: str
) -> None:
    """As a whole, or answering Ray; the other one waits for it, and has waited less long."""
    said = Said()
    broken = trained(tmp_path / "reward", said, [WorkerBlow(1, 5, phase, signal_)], deadline_s=60.0)
    (struck,) = dealt(work_of(tmp_path / "reward"))
    assert struck.resumed == 4
    (told,) = [note for note in said.notes if "was lost" in note]
    assert re.match(
        rf"reward: worker 1 was lost in the update of step 5: {reason} \(where that is merely slow, raise "
        r"training.deadline_s = 60\) \(loss 1 in this command\)", told
    ), told
    require_alike(broken, whole)


@contextmanager
def only_places(count: int) -> Iterator[None]:
    """Others hold all CPUs but so many; groups that still wait for some at the end go first."""
    import ray
    from ray.util.placement_group import placement_group, remove_placement_group

    others = placement_group([{"CPU": 1}] * (int(ray.cluster_resources()["CPU"]) - count))
    try:
        ray.get(others.ready(), timeout=HANG_S)
        yield
    finally:
        for group in waiting():
            remove_placement_group(group)
        remove_placement_group(others)


def waiting() -> list[Any]:
    from ray._raylet import PlacementGroupID
    from ray.util.placement_group import PlacementGroup, placement_group_table

    pending = [name for name, group in placement_group_table().items() if group["state"] == "PENDING"]
    return [PlacementGroup(PlacementGroupID.from_hex(name)) for name in pending]


@pytest.mark.exhaustive
def test_a_worker_that_does_not_come_to_the_meeting_is_replaced(
    trained: Train, whole: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the places that it had."""
    met = tmp_path / "met"
    monkeypatch.setattr(ray_train, "Meeting", partial(StoppingMeeting, done=met))
    with only_places(2):
        broken = trained(tmp_path / "reward", Said(), deadline_s=30.0)
    assert met.exists()
    require_alike(broken, whole)


def test_workers_without_places_are_waited_for_so_long(
    trained: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_train, "PLACES_S", 3.0)
    said = r"reward: no nodes had room for 2 workers with 1 CPU and 0 GPU each .* \(start 1 in this command: training."
    with only_places(1), pytest.raises(ResourceError, match=said):
        trained(tmp_path / "reward", Said(), max_failures=0)


def test_who_waits_for_places_ends_on_request(trained: Train, tmp_path: Path) -> None:
    def ask() -> None:
        wait_until(waiting)
        os.kill(os.getpid(), signal.SIGTERM)

    said = "ended on SIGTERM after no step since its newest checkpoint; the same command goes on"
    with only_places(1), ThreadPoolExecutor(1) as beside, pytest.raises(Terminated, match=said):
        beside.submit(ask)
        trained(tmp_path / "reward", Said())
