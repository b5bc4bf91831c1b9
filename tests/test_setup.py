"""The set-up of .venv: refused on a machine that cannot hold it, made whole, or made again."""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
UNSERVED = "http://127.0.0.1:9/simple"  # the discard port: refuses at once

# A build backend of the standard library alone: the checkout of these tests is installed without any index.
BACKEND = """
import base64, hashlib, pathlib, zipfile

def build_editable(directory, config_settings=None, metadata_directory=None):
    info = "rlhf-0.dist-info"
    files = {
        "rlhf.pth": str(pathlib.Path(__file__).parent),
        f"{info}/METADATA": "Metadata-Version: 2.1\\nName: rlhf\\nVersion: 0\\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    with zipfile.ZipFile(f"{directory}/rlhf-0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{name},,\\n" for name in [*files, f"{info}/RECORD"]))
    return "rlhf-0-py3-none-any.whl"

def build_wheel(directory, config_settings=None, metadata_directory=None):
    raise NotImplementedError("only the editable installation is tested")
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with the real set-up, and two tiny packages for pins."""
    place = tmp_path / "checkout"
    shutil.copytree(ROOT / "cluster", place / "cluster", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", place)
    (place / "cluster" / "requirements-cpu.txt").write_text("# two pins\ntorch==9.9.9+cpu\ntiny==1.0\n")
    (place / "backend.py").write_text(BACKEND)
    (place / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return place


@pytest.fixture
def wheels(tmp_path: Path) -> Path:
    """A directory with wheels of both pins."""
    place = tmp_path / "wheels"
    place.mkdir()
    torch = "from types import SimpleNamespace\n__version__ = '9.9.9+cpu'\nversion = SimpleNamespace(cuda=None)\n"
    write_wheel(place, "torch", "9.9.9+cpu", torch)
    write_wheel(place, "tiny", "1.0", "")
    return place


def write_wheel(place: Path, name: str, version: str, source: str) -> Path:
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": source,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    path = place / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file, text in files.items():
            wheel.writestr(file, text)
        wheel.writestr(f"{info}/RECORD", "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"]))
    return path


def tools(place: Path, *names: str) -> Path:
    """A directory for PATH that holds these programs and no others; `python3.11` is the one that runs this test."""
    place.mkdir()
    for name in names:
        (place / name).symlink_to(sys.executable if name == "python3.11" else shutil.which(name))
    return place


def set_up(checkout: Path, path: Path | str | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    """`make environment` with this PATH and nothing of pip's configuration but `variables`."""
    dropped = ("PIP_", "MAKE", "PYTHON", "CXX")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    environment = kept | {"PATH": str(path or os.environ["PATH"]), "PIP_CONFIG_FILE": os.devnull} | variables
    command = [shutil.which("make"), "-s", "environment"]
    return subprocess.run(command, cwd=checkout, env=environment, capture_output=True, text=True)


def refusal(result: subprocess.CompletedProcess[str], checkout: Path) -> str:
    """The one sentence of a set-up that refused and made nothing."""
    assert result.returncode == 2
    assert not (checkout / ".venv").exists()
    assert result.stdout == ""
    sentence, *rest = result.stderr.splitlines()
    assert [line for line in rest if not line.startswith("make: ***")] == []
    return sentence


def test_missing_compiler_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    sentence = refusal(set_up(checkout, tools(tmp_path / "bin", "sh", "python3.11")), checkout)
    assert "no C++ compiler found" in sentence
    assert "apt-get install g++" in sentence


def test_named_compiler_must_exist(checkout: Path) -> None:
    assert "looked for no-such-compiler" in refusal(set_up(checkout, CXX="no-such-compiler"), checkout)


def test_missing_python_is_one_sentence(checkout: Path, tmp_path: Path) -> None:
    sentence = refusal(set_up(checkout, tools(tmp_path / "bin", "sh", "g++")), checkout)
    assert "no Python 3.11 found" in sentence
    assert "PYTHON=/path/to/python3.11" in sentence


def test_another_python_is_refused(checkout: Path, tmp_path: Path) -> None:
    programs = tools(tmp_path / "bin", "sh", "g++")
    for name in ("python3.11", "python3"):  # a broken shim, and an older version
        (programs / name).write_text("#!/bin/sh\nexit 127\n")
        (programs / name).chmod(0o755)
    assert "no Python 3.11 found" in refusal(set_up(checkout, programs), checkout)
    named = refusal(set_up(checkout, programs, PYTHON="python3"), checkout)
    assert "PYTHON=python3 is not a working Python 3.11" in named


def test_an_interrupted_installation_is_made_again_and_then_kept(checkout: Path, wheels: Path) -> None:
    half = checkout / ".venv" / "lib" / "half"
    half.mkdir(parents=True)
    (checkout / ".venv" / "setup.json").write_text("{}")

    result = set_up(checkout, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(wheels), PYTHON=sys.executable)
    assert result.returncode == 0, result.stderr
    assert not half.exists()
    assert versions(checkout) >= {"torch": "9.9.9+cpu", "tiny": "1.0", "rlhf": "0"}.items()

    again = set_up(checkout, PIP_NO_INDEX="1")
    assert (again.returncode, again.stdout) == (0, "")

    (checkout / "cluster" / "requirements-cpu.txt").write_text("torch==9.9.9+cpu\n")
    assert ask(checkout, "fault()") == "the pins have changed"


def test_torch_comes_from_the_index_of_cpu_builds(checkout: Path, wheels: Path, tmp_path: Path) -> None:
    index = tmp_path / "index" / "torch"
    index.mkdir(parents=True)
    wheel = (wheels / "torch-9.9.9+cpu-py3-none-any.whl").rename(index / "torch-9.9.9+cpu-py3-none-any.whl")
    (index / "index.html").write_text(f'<a href="{wheel.name.replace("+", "%2B")}">{wheel.name}</a>')
    use_cpu_index(checkout, f"file://{index.parent}")
    result = set_up(checkout, PIP_INDEX_URL=UNSERVED, PIP_RETRIES="0", PIP_FIND_LINKS=str(wheels))
    assert result.returncode == 0, result.stderr
    assert dict(versions(checkout))["torch"] == "9.9.9+cpu"


def test_torch_that_nobody_serves_is_one_sentence(checkout: Path) -> None:
    use_cpu_index(checkout, UNSERVED)
    result = set_up(checkout, PIP_INDEX_URL=UNSERVED, PIP_RETRIES="0")
    assert result.returncode == 2
    sentence = result.stderr.splitlines()[0]
    assert "torch==9.9.9+cpu was found neither through pip's own configuration nor at" in sentence
    assert "PIP_FIND_LINKS=" in sentence
    assert json.loads((checkout / ".venv" / "setup.json").read_text()) == {}  # known to be unfinished


def test_an_environment_of_somebody_else_is_left_alone(checkout: Path) -> None:
    theirs = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    add_distribution(theirs, "precious", "1.0")
    result = set_up(checkout)
    assert result.returncode == 2
    assert "was not made by this command" in result.stderr
    assert (theirs / "precious-1.0.dist-info").exists()


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        ({"torch": "9.9.9+cpu", "tiny": "1.0"}, None),
        ({"torch": "9.9.9+cpu"}, "it has tiny not at all instead of 1.0"),
        ({"torch": "9.9.9", "tiny": "1.0"}, "it has torch 9.9.9 instead of 9.9.9+cpu"),
        ({"torch": "9.9.9+cpu", "tiny": "1.0", "torchvision": "0.1"}, "it has torchvision, which breaks transformers"),
    ],
)
def test_drift_from_the_pins_is_noticed(checkout: Path, found: dict[str, str], reason: str | None) -> None:
    site = checkout / ".venv" / "lib" / "python3.11" / "site-packages"
    for name, version in found.items():
        add_distribution(site, name, version)
    assert ask(checkout, "difference(read_pins(), installed())") == str(reason)


def test_a_line_that_is_no_pin_is_named(checkout: Path) -> None:
    (checkout / "cluster" / "requirements-cpu.txt").write_text("torch==9.9.9+cpu\ntiny>=1.0\n")
    result = set_up(checkout)
    assert result.returncode == 2
    assert "requirements-cpu.txt:2: 'tiny>=1.0' is no exact pin" in result.stderr


def versions(checkout: Path) -> set[tuple[str, str]]:
    places = [str(place) for place in checkout.glob(".venv/lib/python*/site-packages")]
    return {(found.metadata["Name"], found.version) for found in distributions(path=places)}


def ask(checkout: Path, expression: str) -> str:
    """The value of an expression over cluster/environment.py of this checkout, printed."""
    command = [sys.executable, "-c", f"from environment import *; print({expression})"]
    answer = subprocess.run(command, cwd=checkout / "cluster", capture_output=True, text=True, check=True)
    return answer.stdout.strip()


def use_cpu_index(checkout: Path, url: str) -> None:
    script = checkout / "cluster" / "setup_env.py"
    text, replaced = re.subn(r"^CPU_INDEX = .*$", f'CPU_INDEX = "{url}"', script.read_text(), flags=re.MULTILINE)
    assert replaced == 1
    script.write_text(text)


def add_distribution(site: Path, name: str, version: str) -> None:
    information = site / f"{name}-{version}.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
