"""Machines made of Linux namespaces: each has its own network address, processes, host name, /dev/shm and /tmp/ray;
files are shared, as on storage that every node sees.

Nothing of it outlives the process that made it, however that ends. All machines are processes of one namespace, whose
first process ends when its input is closed; with it the kernel ends all others, and the network with the last of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from tests.limits import HANG_S

NETWORK = "10.77.0"
BRIDGE = "br0"
_OWN = ("--net", "--pid", "--fork", "--kill-child=KILL", "--mount-proc", "--mount", "--uts", "--ipc")
_PROCESSES, _NETWORK = ("--pid", "--mount"), ("--net",)
_ALL = (*_PROCESSES, *_NETWORK, "--uts", "--ipc")
_TOOLS = ("ip", "unshare", "nsenter")
_SETUP = """
set -e
hostname "$0"
ip link set lo up
mkdir -p /tmp/ray
for place in /dev/shm /tmp/ray; do mount -t tmpfs tmpfs "$place"; done
echo ready
read go
exec "$@"
"""


def lacking() -> str | None:
    """Why this machine cannot make others; None where it can."""
    if os.geteuid() != 0:
        return "machines of namespaces need root"
    missing = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if missing:
        return f"machines of namespaces need the commands {', '.join(missing)} (Debian: iproute2, util-linux)"
    network = "ip link add left type veth peer name right && ip link add middle type bridge"
    tried = f"{network} && mount -t tmpfs tmpfs /dev/shm"
    done = subprocess.run(["unshare", *_OWN, "--", "sh", "-c", tried], capture_output=True, text=True)
    return f"this machine makes no namespaces: {done.stderr.strip()}" if done.returncode else None


class Switch:
    """What machines are connected to. Closing it, or the end of this process, ends all of them."""

    def __init__(self) -> None:
        wait = f"ip link add {BRIDGE} type bridge && ip link set {BRIDGE} up && echo ready && exec cat"
        self.process = _started(["unshare", *_OWN, "--", "sh", "-c", wait], subprocess.PIPE)
        self.pid = _first_process(self.process)
        self._count = 0

    def new_address(self) -> str:
        """One that no machine has had."""
        self._count += 1
        return f"{NETWORK}.{self._count}"

    def connect(self, machine: Machine) -> None:
        """Lay a cable."""
        end = f"to_{machine.name}"
        self.run("ip", "link", "add", end, "type", "veth", "peer", "name", "eth0", "netns", str(machine.pid))
        self.run("ip", "link", "set", end, "master", BRIDGE, "up")

    def run(self, *command: str) -> None:
        """A command in the switch's network."""
        subprocess.run(_inside(self.pid, _NETWORK, command), check=True, timeout=HANG_S)

    def close(self) -> None:
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)
        self.process.wait(HANG_S)


class Machine:
    """One machine, connected to a switch. Its first process runs a command, whose output goes to `log`; with it the
    whole machine ends. `pid` is that process's number here."""

    def __init__(
        self, switch: Switch, name: str, address: str, log: Path, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        self.name, self.address, self.log, self.environment = name, address, log, dict(environment)
        setup = ["unshare", *_OWN, "--", "bash", "-c", f'{_SETUP.rstrip()} >"$LOG" 2>&1', name, *command]
        arguments = _inside(switch.pid, _PROCESSES, setup)
        self.process = _started(arguments, subprocess.PIPE, {**self.environment, "LOG": str(log)})
        self.pid = _first_process(self.process)
        switch.connect(self)
        for setting in (f"addr add {address}/24 dev eth0", "link set eth0 up"):
            self._network(setting)
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def command(self, *command: str) -> list[str]:
        """What runs a command on this machine, as a command of the machine below."""
        return _inside(self.pid, _ALL, ["env", "-C", os.getcwd(), *command])

    def run(self, *command: str, timeout: float = HANG_S) -> str:
        """What a command prints, errors included. Raises CalledProcessError when it fails."""
        done = subprocess.run(
            self.command(*command), env=self.environment, text=True, timeout=timeout, check=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        return done.stdout

    def start(self, *command: str, output: IO[str] | int) -> subprocess.Popen:
        """A command that is not waited for."""
        return subprocess.Popen(
            self.command(*command), env=self.environment, text=True, stdout=output, stderr=subprocess.STDOUT
        )

    def alive(self) -> bool:
        return self.process.poll() is None

    def kill(self) -> None:
        """Power off: every process is gone at once."""
        os.kill(self.pid, signal.SIGKILL)
        self.process.wait(HANG_S)

    def freeze(self) -> None:
        """No process of it runs on, until `thaw`."""
        self._signal_all(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal_all(signal.SIGCONT)

    def unplug(self) -> None:
        """Pull the cable: nobody is told, nothing arrives."""
        self._network("link set eth0 down")

    def plug(self) -> None:
        self._network("link set eth0 up")

    def processes(self) -> list[psutil.Process]:
        """Its first process, and all others."""
        first = psutil.Process(self.pid)
        return [first, *first.children(recursive=True)]

    def _signal_all(self, number: int) -> None:
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _network(self, setting: str) -> None:
        subprocess.run(_inside(self.pid, _NETWORK, ["ip", *setting.split()]), check=True, timeout=HANG_S)


def _inside(pid: int, namespaces: Sequence[str], command: Sequence[str]) -> list[str]:
    return ["nsenter", "--target", str(pid), *namespaces, "--", *command]


def _started(command: Sequence[str], stdin: int, environment: Mapping[str, str] | None = None) -> subprocess.Popen:
    """A process that has said that it is ready."""
    process = subprocess.Popen(command, stdin=stdin, stdout=subprocess.PIPE, text=True, env=environment)
    if process.stdout.readline() != "ready\n":
        process.kill()
        raise RuntimeError(f"{' '.join(command)}: ended with {process.wait()} before it was ready")
    return process


def _first_process(started: subprocess.Popen) -> int:
    """The first process of the namespace that a process of ours has made."""
    deepest = max(psutil.Process(started.pid).children(recursive=True), key=lambda each: len(_numbers(each.pid)))
    assert _numbers(deepest.pid)[-1] == "1", "not the first process of its namespace"
    return deepest.pid


def _numbers(pid: int) -> list[str]:
    """The process's numbers, from the outermost namespace to its own."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("NSpid:")]
    return line.split()[1:]
