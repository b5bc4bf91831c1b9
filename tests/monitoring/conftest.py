"""Jobs that train on a head of their own for as long as they are looked at, and Prometheus beside them."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest

from tests.end_to_end.test_job_submit import Head, arguments, checkout, head
from tests.limits import HANG_S, wait_until
from tests.monitoring.prometheus import INSTALL, Prometheus, scraping
from tests.ports import free_port
from tests.report.conftest import driver

__all__ = ["checkout", "driver", "head"]  # fixtures

LOOP = [
    "steps=100000", "checkpoint_every=50", "transcripts_every=100000", "loop.kind=asynchronous",
    "ppo.correction.kind=token_tis", "policy.optimizer.learning_rate=1e-6",
    "reward.parts.form.kind=json",  # with a second part a run counts responses without a score
]
TRAINING = {
    "batch_size": 8, "micro_batch_size": 8, "epochs": 100000, "log_every": 1, "eval_every": 20,
    "early_stop_patience": "null", "workers.count": 1,
}


@dataclass(frozen=True)
class Running:
    """A submitted run that goes on until it is stopped. `began` is a monotonic time."""

    head: Head
    output: Path
    job: str
    began: float

    @property
    def metrics(self) -> Path:
        return self.output.with_name(self.output.name + ".work") / "metrics.jsonl"


@pytest.fixture(scope="module")
def running(
    head: Head, checkout: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """An asynchronous run with a critic, on prompts that the gold checker knows: every panel has something to show."""
    directory = tmp_path_factory.mktemp("demo")
    output, prompts = directory / "ppo", directory / "prompts.jsonl"
    task = {"family": "repeat", "lang": "en", "items": ["cat", "bus"]}
    records = (json.loads(line) | {"task": task} for line in tiny_models.prompts.read_text().splitlines())
    prompts.write_text("".join(json.dumps(record) + "\n" for record in records))
    with submitted(head, checkout, output, *arguments(tiny_models, output), *LOOP, f"prompts={prompts}") as run:
        yield run


@pytest.fixture(scope="module")
def finetuning(
    running: Running, checkout: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """SFT beside it, on the cores that it leaves."""
    directory = tmp_path_factory.mktemp("finetuning")
    output, texts = directory / "sft", directory / "texts.jsonl"
    turns = [[{"role": "user", "content": f"{k} 请排序"}, {"role": "assistant", "content": str(k)}] for k in range(48)]
    texts.write_text("".join(json.dumps({"messages": each, "lang": "zh"}) + "\n" for each in turns))
    words = [
        "sft", "configs/sft.yaml", f"model={tiny_models.tied}", f"output={output}", f"train=[{texts}]",
        f"validation=[{texts}]", *(f"training.{key}={value}" for key, value in TRAINING.items()),
    ]
    with submitted(running.head, checkout, output, *words) as run:
        yield run


@contextmanager
def submitted(head: Head, checkout: Path, output: Path, *words: str) -> Iterator[Running]:
    """A job inside the block, from its third row of metrics on."""
    began = time.monotonic()
    client = head.submit(checkout, *words)
    try:
        run = Running(head, output, "", began)
        wait_until(lambda: client.poll() is not None or steps_of(run.metrics) >= 3)
        assert client.poll() is None, client.communicate()[0]
        run = Running(head, output, job_of(head, output), began)
        yield run
        asked(head, f"/api/jobs/{run.job}/stop", "POST")
        client.communicate(timeout=HANG_S)
    finally:
        client.kill()
        client.wait()


@pytest.fixture(scope="module")
def prometheus(running: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    if not shutil.which("prometheus"):
        pytest.fail(INSTALL) if os.environ.get("CI") else pytest.skip(INSTALL)
    (config,) = running.head.session.glob("session_2*/metrics/prometheus/prometheus.yml")
    with scraping(config, tmp_path_factory.mktemp("prometheus"), free_port()) as found:
        yield found


def steps_of(path: Path) -> int:
    return path.read_text().count("\n") if path.is_file() else 0


def job_of(head: Head, output: Path) -> str:
    """The submitted job that writes there."""
    (found,) = [job["submission_id"] for job in asked(head, "/api/jobs/") if f"output={output}" in job["entrypoint"]]
    return found


def asked(head: Head, path: str, method: str = "GET") -> Any:
    """What the dashboard's API answers."""
    request = Request(f"{head.dashboard}{path}", headers={"Authorization": f"Bearer {head.token}"}, method=method)
    with urlopen(request, timeout=HANG_S) as answer:
        return json.load(answer)
