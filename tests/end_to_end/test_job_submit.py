"""`ray job submit` on a cluster of its own, with a token: exit codes, what is uploaded, actors in the dashboard, and no
secret in what Ray keeps of it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import psutil
import pytest

from rlhf import artifacts
from tests.limits import HANG_S, wait_until
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
SECRETS = ("HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "JUDGE_TOKEN")
KEPT_OF_JOBS = ("/api/jobs/", *(f"/api/v0/{what}?limit=1000&detail=true"
                                for what in ("jobs", "actors", "tasks", "workers", "runtime_envs", "nodes")))
ROLES = {"policy[0]", "critic[0]", "reference[0]", "reward[0]", "rollout[0]"}


@dataclass(frozen=True)
class Head:
    """A running `ray start --head`: where its dashboard is, and what a client's environment needs."""

    dashboard: str
    session: Path
    token: str
    environment: dict[str, str]
    planted: dict[str, str]

    def answer(self, path: str) -> bytes:
        request = Request(f"{self.dashboard}{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urlopen(request, timeout=HANG_S) as answer:
            return answer.read()

    def actors(self) -> dict[str, str]:
        """Name → state of the actors that the dashboard lists."""
        return {actor["name"]: actor["state"] for actor in self.listed("actors")}

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What the dashboard lists, of one kind."""
        return json.loads(self.answer(f"/api/v0/{what}?limit=100&detail=true"))["data"]["result"]["result"]

    def submit(self, working_dir: Path, *arguments: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", self.dashboard,
                   "--working-dir", str(working_dir), "--", "python", "-m", "rlhf", *arguments]
        return subprocess.Popen(command, env=self.environment, text=True, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, cwd=working_dir)


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    """The head node runs in the foreground of a process of ours: `ray stop` would end every other cluster here, too."""
    port, dashboard_port = free_port(), free_port()
    session = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))  # sockets lie below it, and their paths must be short
    token = secrets.token_hex(32)
    planted = {name: secrets.token_hex(32) for name in SECRETS}
    scripts = str(Path(sys.executable).parent)
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHONPATH"))} | {
        "PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token,
        "RAY_TMPDIR": str(session), **planted,
    }
    command = [
        f"{scripts}/ray", "start", "--head", "--block", f"--port={port}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard_port}", "--num-cpus=2", "--object-store-memory=300000000",
        "--disable-usage-stats", f"--temp-dir={session}", "--dashboard-agent-listen-port=0",
    ]
    dashboard, everything = f"http://127.0.0.1:{dashboard_port}", {**planted, "RAY_AUTH_TOKEN": token}
    found = Head(dashboard, session, token, environment, everything)
    started = None
    try:
        started = start_patiently(command, found)
        yield found
    finally:
        if started is not None:
            end(started)
        shutil.rmtree(session, ignore_errors=True)


def start_patiently(command: list[str], head: Head) -> subprocess.Popen:
    """The process of a head that takes jobs. Ray ends one whose node took more than 30 s to start: it is started again.
    """
    for _ in range(4):
        started = subprocess.Popen(
            command, env=head.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_until(lambda started=started: takes_jobs(head) or started.poll() is not None)
        if started.poll() is None:
            return started
    raise AssertionError("ray start --head ended at once, four times")


def end(started: subprocess.Popen) -> None:
    for process in psutil.Process(started.pid).children(recursive=True):
        with suppress(psutil.Error):  # it has ended with one that came before it
            if process.name() == "raylet":  # it would wait 30 s for an actor that Ray Train leaves behind
                process.kill()
    started.terminate()
    started.wait(HANG_S)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project as a user has it: with an environment, runs and caches beside it."""
    target = tmp_path_factory.mktemp("checkout")
    for name in ("rlhf", "actors", "configs", ".gitignore", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target / name)
    for stray in (".venv/lib/big.bin", "runs/demo/model.safetensors", "rlhf/__pycache__/stale.pyc"):
        (target / stray).parent.mkdir(parents=True, exist_ok=True)
        (target / stray).write_bytes(b"0" * 1000)
    return target


@dataclass(frozen=True)
class Submitted:
    """A PPO job that has ended: the roles that were seen alive, and what it said."""

    output: Path
    seen: set[str]
    code: int
    told: str


@pytest.fixture(scope="module")
def submitted(head: Head, checkout: Path, tiny_models: Any, tmp_path_factory: pytest.TempPathFactory) -> Submitted:
    output = tmp_path_factory.mktemp("submitted") / "ppo"
    job = head.submit(checkout, *arguments(tiny_models, output))
    seen: set[str] = set()

    def all_seen() -> bool:
        seen.update(name for name, state in head.actors().items() if state == "ALIVE" and name in ROLES)
        return seen == ROLES or job.poll() is not None

    wait_until(all_seen)
    told, _ = job.communicate(timeout=HANG_S)
    return Submitted(output, seen, job.returncode, told)


def test_a_ppo_job_is_watched_and_returns_zero(head: Head, submitted: Submitted) -> None:
    assert submitted.code == 0, submitted.told
    assert submitted.seen == ROLES, submitted.told
    assert artifacts.load(submitted.output).manifest.stage == "ppo"
    assert re.search(r"ppo 3/3 .*reward", submitted.told), "a line per step in the job's log"
    assert {name: state for name, state in head.actors().items() if name in ROLES} == dict.fromkeys(ROLES, "DEAD")


def test_no_secret_is_in_what_ray_keeps_of_a_job(head: Head, submitted: Submitted) -> None:
    """Its job table, what it tells of actors, tasks and their environments, its files and logs, and what the job said.

    That what was written there is found is shown by the output's path, which is in the job's command.
    """
    kept = {path: head.answer(path) for path in KEPT_OF_JOBS} | {"the job's output": submitted.told.encode()}
    assert all(str(submitted.output).encode() in kept[path] for path in KEPT_OF_JOBS[:2])
    assert all(role.encode() in kept[KEPT_OF_JOBS[2]] for role in ROLES)
    files = contents(head.session) | contents(submitted.output.parent)
    assert any("/job-driver-" in path for path in files)
    kept |= files
    assert [f"{place} holds {name}" for place, content in kept.items() for name, value in head.planted.items()
            if value.encode() in content] == []


def contents(directory: Path) -> dict[str, bytes]:
    """Of every file below a directory in which processes still write: what is removed meanwhile is left out."""
    found = {}
    for place, _, names in os.walk(directory):
        for path in (Path(place, name) for name in names):
            with suppress(FileNotFoundError):
                if path.is_file() and not path.is_symlink():
                    found[str(path)] = path.read_bytes()
    return found


def test_environment_runs_and_caches_are_not_uploaded(head: Head, checkout: Path) -> None:
    job = head.submit(checkout, "--help")
    assert job.wait(HANG_S) == 0
    (package,) = {path for path in head.session.rglob("_ray_pkg_*") if path.is_dir()}
    uploaded = {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()}
    assert {"rlhf/cli.py", "actors/ppo_job.py", "configs/ppo.yaml"} <= uploaded
    assert not [path for path in uploaded if path.startswith((".venv", "runs")) or path.endswith("stale.pyc")]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["stepz=3"], "stepz: unknown key, did you mean 'steps'"),
        (["output=runs/ppo"], "output: runs/ppo is relative, and this job's working directory is a temporary copy"),
        (["reward.resources.cpus=9"], "the run asks for 9.8 CPUs"),
    ],
)
def test_a_job_that_is_refused_returns_one(
    head: Head, checkout: Path, tiny_models: Any, tmp_path: Path, overrides: list[str], expected: str
) -> None:
    job = head.submit(checkout, *arguments(tiny_models, tmp_path / "ppo"), *overrides)
    told, _ = job.communicate(timeout=HANG_S)
    assert job.returncode == 1, told
    assert expected in told
    assert not (tmp_path / "ppo").exists()


def arguments(models: Any, output: Path) -> list[str]:
    """A PPO run of three steps, as the README submits it."""
    return [
        "ppo", "configs/ppo.yaml", "configs/profiles/cpu.yaml", f"output={output}", "steps=3",
        f"prompts={models.prompts}",
        f"policy.model={models.tied}", f"reference.model={models.tied}",
        f"critic.model={models.reward}", f"reward.model={models.reward}",
        *(f"{role}.resources.cpus=0.2" for role in ("policy", "critic", "reference", "reward", "rollout")),
        "rollout.prompts_per_step=8", "rollout.max_new_tokens=8", "rollout.kv_cache_gib=1",
    ]


def takes_jobs(head: Head) -> bool:
    """Its dashboard answers before it has a node."""
    try:
        nodes = head.listed("nodes")
    except (URLError, ConnectionError, KeyError):
        return False
    return any(node["state"] == "ALIVE" for node in nodes)
