"""`rlhf doctor`: what each check says of made-up machines, and one real run of the command."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from packaging.specifiers import SpecifierSet

from rlhf.doctor import checks, cluster, devices, machine, versions
from rlhf.doctor.devices import Devices
from rlhf.doctor.finding import Finding, ok
from tests.limits import HANG_S

ROOT = Path(__file__).resolve().parents[2]
GIB = 1024**3
H200 = "NVIDIA H200, 143771, 580.82.07"
OLD = "Tesla T4, 15360, 470.57.02"
GPU_BUILD = "2.13.0+cu130"


def test_only_what_is_not_ok_has_a_remedy() -> None:
    assert str(ok("ray", "2.60.0")) == "ok    ray             2.60.0"
    for level, remedy in (("ok", "do"), ("warn", ""), ("FAIL", "")):
        with pytest.raises(ValueError, match="a remedy belongs"):
            Finding(level, "ray", "2.60.0", remedy)


@pytest.mark.parametrize(
    ("package", "found", "tested", "level", "says"),
    [
        ("ray", "2.60.0", "==2.60.0", "ok", "2.60.0"),
        ("ray", "2.61.0", "==2.60.0", "warn", "tested with ==2.60.0"),
        ("ray", "2.51.1", "==2.51.1", "FAIL", "CVE-2025-62593"),
        ("ray", None, "==2.60.0", "FAIL", "not installed"),
        ("vllm", "0.23.0", "==0.32.0", "FAIL", "CVE-2026-116176"),
        ("vllm", "0.31.0", None, "ok", "0.31.0"),
        ("torch", "2.10.0+cpu", "==2.13.0+cpu", "FAIL", "CVE-2026-24747"),
        ("torch", "2.13.0+cpu", "==2.13.0+cpu", "ok", "2.13.0+cpu"),
        ("torch", "2.13.0+cu130", "==2.13.0+cpu", "warn", "tested with"),
        ("trl", "1.17.0rc1", "==1.16.0", "warn", "1.17.0rc1"),
    ],
)
def test_versions(package: str, found: str | None, tested: str | None, level: str, says: str) -> None:
    finding = versions.judge(package, found, SpecifierSet(tested) if tested else None)
    assert finding.level == level and says in finding.found


def test_the_pinned_engines_are_tested_ones_and_none_is_known_to_be_bad() -> None:
    found = {finding.subject: finding for finding in versions.engine_versions()}
    assert list(found) == list(versions.ENGINES)
    assert {finding.level for finding in found.values()} == {"ok"}
    assert set(versions.tested_with()) == set(versions.ENGINES)


@pytest.mark.parametrize(("running", "level"), [((3, 11, 7), "ok"), ((3, 12, 1), "FAIL"), ((3, 10, 0), "FAIL")])
def test_python(running: tuple[int, ...], level: str) -> None:
    assert versions.python_version(running).level == level


@pytest.mark.parametrize(
    ("found", "level", "says"),
    [
        (Devices((), "2.13.0+cpu", None, 0), "ok", "no GPU"),
        (Devices((), GPU_BUILD, "13.0", 0), "warn", "no GPU is visible"),
        (Devices((H200,), "2.13.0+cpu", None, 0), "FAIL", "built for CPUs"),
        (Devices((H200,), GPU_BUILD, "13.0", 1), "ok", "H200"),
        (Devices((OLD,), GPU_BUILD, "13.0", 0), "FAIL", "needs a driver for CUDA 13.0"),
        (Devices((H200, H200), GPU_BUILD, "13.0", 1), "warn", "1 of 2"),
        (Devices((), GPU_BUILD, "13.0", 2), "ok", "2 GPUs"),  # torch sees what nvidia-smi was not there to list
    ],
)
def test_devices(found: Devices, level: str, says: str) -> None:
    finding = devices.judge(found)
    assert finding.level == level and says in finding.found


@pytest.mark.parametrize(
    ("finding", "level"),
    [
        (machine.judge_disk("disk", Path("/"), 100 * GIB, 200 * GIB), "ok"),
        (machine.judge_disk("disk", Path("/"), 10 * GIB, 200 * GIB), "warn"),
        (machine.judge_disk("disk", Path("/"), 30 * GIB, 1000 * GIB), "warn"),  # enough, but 97% full
        (machine.judge_disk("disk", Path("/"), GIB, 200 * GIB), "FAIL"),
        (machine.judge_shared_memory(64 * 1024**2, 64 * 1024**2), "FAIL"),  # what Docker gives by default
        (machine.judge_shared_memory(GIB, GIB), "warn"),
        (machine.judge_shared_memory(8 * GIB, 8 * GIB), "ok"),
        (machine.judge_memory(64 * GIB, 60 * GIB, None), "ok"),
        (machine.judge_memory(64 * GIB, 60 * GIB, 6 * GIB), "warn"),
        (machine.judge_memory(64 * GIB, 3 * GIB, None), "FAIL"),
        (machine.judge_open_files(1024, 1048576), "ok"),  # Ray raises the soft limit
        (machine.judge_open_files(1024, 8192), "warn"),
        (machine.judge_open_files(1024, 1024), "FAIL"),
        (machine.judge_open_files(1024, -1), "ok"),
        (cluster.judge_port(8265, False, ""), "ok"),
        (cluster.judge_port(8265, True, "python /lib/site-packages/ray/dashboard/dashboard.py"), "ok"),
        (cluster.judge_port(6379, True, "redis-server *:6379"), "warn"),
        (cluster.judge_port(6379, True, ""), "warn"),
    ],
)
def test_room_and_ports(finding: Finding, level: str) -> None:
    assert finding.level == level


def test_a_port_that_somebody_else_has_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cluster._listens(port) and cluster._holder(port) == " ".join(psutil.Process().cmdline())
    assert not cluster._listens(port)


def test_the_limit_of_a_container_is_read_in_both_versions_of_cgroups(tmp_path: Path) -> None:
    two, one = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    assert machine.cgroup_limit((two, one)) is None
    one.write_text("9223372036854771712\n")  # no limit, as version 1 writes it
    assert machine.cgroup_limit((two, one)) is None
    two.write_text("max\n")
    assert machine.cgroup_limit((two, one)) is None
    two.write_text(f"{6 * GIB}\n")
    assert machine.cgroup_limit((two, one)) == 6 * GIB


@pytest.mark.parametrize(
    ("environment", "file_mode", "level", "says"),
    [
        ({}, None, "ok", "a token of its own"),
        ({}, 0o600, "warn", "does not send"),
        ({"RAY_AUTH_MODE": "disabled"}, None, "warn", "whoever reaches"),
        ({"RAY_AUTH_MODE": "tokens"}, None, "FAIL", "no mode"),
        ({"RAY_AUTH_MODE": "token"}, None, "FAIL", "no RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "secret"}, None, "ok", "RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "token"}, 0o600, "ok", "auth_token"),
        ({"RAY_AUTH_MODE": "token"}, 0o644, "warn", "may read"),
    ],
)
def test_tokens(environment: dict, file_mode: int | None, level: str, says: str, tmp_path: Path) -> None:
    if file_mode is not None:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("secret")
        (tmp_path / ".ray" / "auth_token").chmod(file_mode)
    finding = cluster.token(environment, tmp_path)
    assert finding.level == level and says in finding.found
    assert "secret" not in str(finding)


@pytest.mark.parametrize(
    ("environment", "level", "says"),
    [
        ({}, "ok", "none"),
        ({"HTTP_PROXY": "http://proxy:3128"}, "warn", "localhost, 127.0.0.1"),
        ({"https_proxy": "x", "no_proxy": "localhost, 127.0.0.1"}, "ok", "not for Ray's"),
        ({"https_proxy": "x", "no_proxy": "*"}, "ok", "not for Ray's"),
        ({"https_proxy": "x", "NO_PROXY": "localhost,127.0.0.1", "RAY_ADDRESS": "head:6379"}, "warn", "head"),
    ],
)
def test_proxies(environment: dict[str, str], level: str, says: str) -> None:
    finding = cluster.proxies(environment)
    assert finding.level == level and says in finding.found


def test_the_address_of_a_cluster_is_tried() -> None:
    assert cluster.address({}).level == "ok"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert cluster.address({"RAY_ADDRESS": f"127.0.0.1:{port}"}).found == f"127.0.0.1:{port} answers"
        assert cluster.address({"RAY_ADDRESS": f"http://127.0.0.1:{port}"}).level == "ok"
    gone = cluster.address({"RAY_ADDRESS": f"127.0.0.1:{port}"})
    assert gone.level == "FAIL" and "refused" in gone.found


def test_the_compiler_is_looked_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("")
    (tmp_path / "mine").chmod(0o755)
    assert machine.compiler({"CXX": str(tmp_path / "mine")}).found == str(tmp_path / "mine")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.compiler({}).level == "FAIL"


def test_a_check_that_breaks_has_failed_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken() -> Devices:
        raise ImportError("libcudart.so.13: cannot open shared object file")

    monkeypatch.setattr(devices, "look", broken)
    found = {finding.subject: finding for finding in checks.findings(tmp_path)}
    assert found["devices"].level == "FAIL" and "libcudart" in found["devices"].found
    assert found["system"].level == "ok" and "proxies" in found


def test_the_command_says_a_line_each_and_fails_when_something_does(tmp_path: Path) -> None:
    def doctor(**changed: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        command = [sys.executable, "-m", "rlhf", "doctor", str(tmp_path)]
        return subprocess.run(
            command, cwd=ROOT, env={**kept, "HOME": str(tmp_path), **changed}, text=True, capture_output=True,
            timeout=HANG_S, check=False,
        )

    wrong = doctor(RAY_AUTH_MODE="token")
    assert wrong.returncode == 1 and wrong.stderr == ""
    lines = wrong.stdout.splitlines()
    assert all(line.startswith(("ok    ", "warn  ", "FAIL  ")) for line in lines) and len(lines) > 20
    (line,) = [line for line in lines if line.startswith("FAIL  token")]
    assert line.endswith("give all nodes and clients the same")
    right = doctor(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="secret")
    assert right.returncode == any(line.startswith("FAIL") for line in right.stdout.splitlines())
    assert "secret" not in right.stdout


def test_a_file_is_no_place_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("")
    found = machine.disk("disk", tmp_path / "a.yaml")
    assert found.level == "FAIL" and "a.yaml is no directory" in found.found
    assert machine.disk("disk", tmp_path / "not" / "yet").level != "FAIL"


def test_a_compilation_that_was_broken_off_is_named(tmp_path: Path) -> None:
    environment = {"TORCH_EXTENSIONS_DIR": str(tmp_path)}
    assert machine.compilations(environment).found == "none was broken off"
    lock = tmp_path / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir()
    with open(lock, "w"):  # as its builder has it
        assert machine.compilations(environment).found == "one is under way"
    finding = machine.compilations(environment)
    assert (finding.level, finding.found) == ("warn", f"{lock}: left by a process that was killed")
    assert finding.remedy == f"rm {lock}"
    by_default = machine.compilations({"XDG_CACHE_HOME": str(tmp_path.parent)})
    assert by_default.level == "ok"
