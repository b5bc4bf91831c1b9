"""A job that trains on a head of its own for as long as it is looked at, and Prometheus beside it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Running:
    """A submitted PPO run that goes on until it is stopped. `began` is a monotonic time."""

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
    began = time.monotonic()
    client = head.submit(checkout, *arguments(tiny_models, output), *LOOP, f"prompts={prompts}")
    try:
        run = Running(head, output, "", began)
        wait_until(lambda: client.poll() is not None or steps_of(run.metrics) >= 3)
        assert client.poll() is None, client.communicate()[0]
        yield Running(head, output, job_of(head), began)
        asked(head, f"/api/jobs/{job_of(head)}/stop", "POST")
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


def job_of(head: Head) -> str:
    """The only submitted job that runs."""
    (found,) = [job["submission_id"] for job in asked(head, "/api/jobs/") if job["status"] == "RUNNING"]
    return found


def asked(head: Head, path: str, method: str = "GET") -> Any:
    """What the dashboard's API answers."""
    request = Request(f"{head.dashboard}{path}", headers={"Authorization": f"Bearer {head.token}"}, method=method)
    with urlopen(request, timeout=HANG_S) as answer:
        return json.load(answer)
