"""Jobs on a cluster of several machines: submitted, watched, and struck in a phase that they are seen to be in."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.config import merge
from tests.cluster.hosts import Cluster
from tests.cluster.machines import Machine
from tests.end_to_end.jobs import settings
from tests.limits import HANG_S, wait_until

ROOT = Path(__file__).resolve().parents[2]
_ID = re.compile(r"Job '(\w+)' submitted successfully")


def checkout(directory: Path) -> Path:
    """What a job uploads: the project, and what of its tests listens to a test."""
    for name in ("rlhf", "actors", "configs", "tests/chaos"):
        shutil.copytree(ROOT / name, directory / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("tests/cluster/driver.py", "tests/end_to_end/jobs.py", "tests/limits.py"):
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, directory / name)
    return directory


def spread(models: Any, output: Path, **changes: Any) -> dict[str, Any]:
    """Raw settings of a GAE-PPO run of five steps: every role has a process of its own, the two policy ranks lie on two
    machines; a checkpoint every other step."""
    apart = {
        "steps": 5, "checkpoint_every": 2, "transcripts_every": 100, "rollout": {"resources": {"ranks": 1}},
        "policy": {"resources": {"ranks": 2, "strategy": "STRICT_SPREAD"}},
    }
    return settings(models, output, **merge(apart, changes))


@dataclass
class Job:
    """A submission whose log is followed by `ray job submit` on the client."""

    cluster: Cluster
    process: subprocess.Popen
    log: Path
    board: Path

    def told(self) -> str:
        return self.log.read_text()

    def id(self) -> str:
        wait_until(lambda: _ID.search(self.told()) is not None, what="the job's id")
        return _ID.search(self.told())[1]

    def status(self) -> str:
        (found,) = [job["status"] for job in self.cluster.listed("jobs") if job["submission_id"] == self.id()]
        return found

    def says(self, words: str) -> None:
        """Returns when its log has these words. Fails when it ends without them."""
        wait_until(lambda: words in self.told() or self.process.poll() is not None, what=words)
        assert words in self.told(), self.told()

    def ends(self) -> int:
        """Its exit code."""
        return self.process.wait(HANG_S)

    def stop(self) -> subprocess.Popen:
        """`ray job stop`, which ends when the job has."""
        command = ("ray", "job", "stop", "--address", self.cluster.dashboard, self.id())
        return self.cluster.client.start(*command, output=subprocess.DEVNULL)

    def phases(self) -> list[dict[str, Any]]:
        """Time, step and phase of every phase that began."""
        return [json.loads(line) for line in (self.board / "phases.jsonl").read_text().splitlines()]


@dataclass(frozen=True)
class Moment:
    """The beginning of a phase of a step (from 1; 0 where work has none), at which the run waits for the test."""

    step: int
    phase: str

    @property
    def asked(self) -> dict[str, str]:
        """Which actor is to be asked for what in the phase."""
        return {}

    def mark(self, board: Path) -> Path:
        return board / f"{self.step}-{self.phase}"

    def reached(self, job: Job) -> dict[str, str]:
        """Wait until the run is there; the node of every actor."""
        begun = self.mark(job.board).with_suffix(".begun")
        wait_until(lambda: begun.exists() or job.process.poll() is not None, what=str(self))
        assert begun.exists(), job.told()
        return json.loads(begun.read_text())

    def over(self, job: Job) -> None:
        """The run may go on."""
        self.mark(job.board).with_suffix(".ready").touch()


def submit(
    cluster: Cluster, code: Path, raw: dict[str, Any], moments: Sequence[Moment] = (), stage: str = "ppo"
) -> Job:
    """Submit a stage on these settings from the client."""
    board = Path(raw["output"]).with_name(f"board{time.time_ns()}")
    board.mkdir(parents=True)
    config = board / "config.yaml"
    config.write_text(json.dumps(raw))  # JSON is YAML
    for moment in moments:
        moment.mark(board).with_suffix(".wanted").write_text(json.dumps(moment.asked))
    module = ["tests.cluster.driver", str(board)] if moments else ["rlhf"]
    command = ["ray", "job", "submit", "--address", cluster.dashboard, "--working-dir", str(code), "--",
               "python", "-m", *module, stage, str(config)]
    with open(board / "log", "w") as log:
        return Job(cluster, cluster.client.start(*command, output=log), board / "log", board)


@dataclass(frozen=True)
class Blow(Moment):
    """What befalls the machine of an actor when that call to it, and the others of the phase, are under way."""

    actor: str
    call: str
    does: Callable[[Machine], None] = Machine.kill

    @property
    def asked(self) -> dict[str, str]:
        return {self.actor: self.call}


def cut_off(machine: Machine) -> None:
    """Its cable is pulled; its processes run on, with what they were asked."""
    machine.unplug()
    machine.thaw()


@dataclass
class Struck:
    """A blow that was dealt, and the actors on that machine with the calls that they had not answered.

    `resumed` is the step at which the run began again (None: it has no steps), `lost_s` the seconds until it was in the
    same phase again.
    """

    blow: Blow
    machine: Machine
    calls: dict[str, str]
    at: float = field(default_factory=time.time)
    resumed: int | None = None
    lost_s: float | None = None

    @property
    def redone(self) -> int:
        """Steps that were made twice: those since the checkpoint, and the broken one where it had been whole."""
        if self.resumed is None:
            return 0
        return self.blow.step - self.resumed + (self.blow.phase == "checkpoint")

    def look_back(self, phases: Sequence[dict[str, Any]]) -> None:
        """Find in the run's phases how it went on. Fails when the blow has not met the phase that it was meant for."""
        until = [each for each in phases if each["time"] <= self.at]
        assert (until[-1]["step"], until[-1]["phase"]) == (self.blow.step, self.blow.phase), until[-1]
        later = [each for each in phases if each["time"] > self.at]
        again = [each for each in later if each["phase"] == "rollout"]
        self.resumed = again[0]["step"] if again else None
        there = [each for each in later if (each["step"], each["phase"]) == (self.blow.step, self.blow.phase)]
        beyond = [each for each in again if each["step"] > self.blow.step]
        self.lost_s = (there or beyond)[0]["time"] - self.at


def strike(job: Job, blow: Blow) -> Struck:
    """Wait for the phase, and deal the blow. The machine is frozen meanwhile, so that it cannot get through it. Fails
    when the actor was not in it."""
    nodes, addresses = blow.reached(job), {node: at for at, node in job.cluster.nodes().items()}
    (machine,) = [each for each in job.cluster.workers if each.address == addresses[nodes[blow.actor]]]
    calls = blow.mark(job.board).with_suffix(".calls")
    machine.freeze()
    blow.over(job)
    wait_until(calls.exists, what="the calls of the phase")
    told = json.loads(calls.read_text())
    blow.does(machine)
    here = {actor for actor, node in nodes.items() if node == nodes[blow.actor]}
    struck = Struck(blow, machine, {actor: call for actor, call in told["calls"].items() if actor in here})
    assert told["stood"] == [blow.step, blow.phase] and struck.calls.get(blow.actor) == blow.call, told
    return struck
