"""A Ray cluster of several machines on this one: a head, workers, and a client that has only their addresses."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.cluster.machines import Machine, Switch
from tests.limits import HANG_S, wait_until

PORT, DASHBOARD = 6379, 8265
STORE = 150_000_000  # bytes of each machine's object store
DEAD_S = 3.0  # after which the head gives up a machine that does not answer; Ray's own default is 15 and more
_STARTS = 4
SCRIPTS = Path(sys.executable).parent
_QUICK = {
    "RAY_health_check_initial_delay_ms": "1000", "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "1000", "RAY_health_check_failure_threshold": f"{DEAD_S:.0f}",
    "RAY_JOB_STOP_WAIT_TIME_S": "120",
}
_GET = f"""
import sys, urllib.request
from pathlib import Path
asked = urllib.request.Request(sys.argv[1], headers={{"Authorization": "Bearer " + Path(sys.argv[2]).read_text()}})
print(urllib.request.urlopen(asked, timeout={HANG_S}).read().decode())
"""


@dataclass
class Cluster:
    """`directory` is seen by every machine, by the same path."""

    directory: Path
    switch: Switch
    cpus: int
    environment: Mapping[str, str]
    workers: list[Machine] = field(default_factory=list)
    _numbers: int = 0

    def __post_init__(self) -> None:
        head = ["--head", f"--port={PORT}", "--num-cpus=0", "--dashboard-host=0.0.0.0", f"--dashboard-port={DASHBOARD}"]
        self.head = self._start("head", head)
        self.client = self._machine("client", self.switch.new_address(), ["sleep", "infinity"])
        wait_until(self._answers)

    @property
    def dashboard(self) -> str:
        return f"http://{self.head.address}:{DASHBOARD}"

    def add_worker(self) -> Machine:
        """A machine more; Ray learns of it a few seconds later."""
        self._numbers += 1
        name = f"worker{self._numbers}"
        self.workers.append(self._start(name, [f"--address={self.head.address}:{PORT}", f"--num-cpus={self.cpus}"]))
        return self.workers[-1]

    def start_workers(self, count: int) -> None:
        """Returns when Ray knows so many. One whose node took more than the 30 s that Ray gives it to start ends; then
        another is started."""
        for _ in range(_STARTS):
            while len(self.workers) < count:
                self.add_worker()
            wait_until(lambda: {worker.address for worker in self.workers if worker.alive()} <= self.nodes().keys())
            self.workers = [worker for worker in self.workers if worker.alive()]
            if len(self.workers) == count:
                return
        raise RuntimeError(f"no {count} workers start: look at {self.directory}/worker*.log")

    def nodes(self) -> dict[str, str]:
        """Address → id of the nodes that Ray holds alive."""
        return {node["node_ip"]: node["node_id"] for node in self.listed("nodes") if node["state"] == "ALIVE"}

    def listed(self, what: str) -> list[dict[str, Any]]:
        """What the dashboard lists, of one kind."""
        url = f"{self.dashboard}/api/v0/{what}?limit=1000&detail=true"
        answer = self.client.run(sys.executable, "-S", "-c", _GET, url, self.environment["RAY_AUTH_TOKEN_PATH"])
        return json.loads(answer)["data"]["result"]["result"]

    def _answers(self) -> bool:
        if not self.head.alive():
            raise RuntimeError(f"the head ended:\n{self.head.log.read_text()}")
        try:
            return self.head.address in self.nodes()
        except subprocess.CalledProcessError:
            return False

    def _start(self, name: str, options: list[str]) -> Machine:
        address = self.switch.new_address()
        command = ["ray", "start", "--block", "--disable-usage-stats", f"--object-store-memory={STORE}"]
        return self._machine(name, address, [*command, f"--node-ip-address={address}", *options])

    def _machine(self, name: str, address: str, command: list[str]) -> Machine:
        return Machine(self.switch, name, address, self.directory / f"{name}.log", command, self.environment)


@contextmanager
def hosts(directory: Path, workers: int = 2, cpus: int = 2) -> Iterator[Cluster]:
    """A head without CPUs, workers with so many each, and a client. Everything ends with the block, or this process.

    `directory` must be empty; logs, token and home of the machines lie there.
    """
    switch = Switch()
    try:
        cluster = Cluster(directory, switch, cpus, _environment(directory))
        cluster.start_workers(workers)
        yield cluster
    finally:
        switch.close()


def _environment(directory: Path) -> dict[str, str]:
    """Of every machine: a home and a token of this cluster's own; nothing that this process has of Ray's. What is
    compiled once is shared, as the machines of a cluster share an image."""
    token, home, cache = directory / "token", directory / "home", Path("~/.cache").expanduser()
    token.write_text(secrets.token_hex(32))
    home.mkdir()
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "PYTHON"))}
    return {
        "XDG_CACHE_HOME": str(cache), **kept, **_QUICK,
        "HOME": str(home), "PATH": f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token),
        "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1",
    }
