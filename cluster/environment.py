"""What .venv is: the pins it is made from, what lies in it, and whether the two agree. Standard library only."""

import hashlib
import json
import os
import re
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "cluster" / "requirements-cpu.txt"
PROJECT = ROOT / "pyproject.toml"
VENV = ROOT / ".venv"
STAMP = VENV / "setup.json"

# Their builds beside a CPU torch are CUDA builds; with them installed, `import transformers` fails.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")


class SetupError(Exception):
    """The environment cannot be made; the message is one sentence with the remedy."""


def fault() -> str | None:
    """Why .venv cannot be used as it is; None when it holds exactly the pins."""
    if not (VENV / "bin" / "python").exists():
        return "there is none" if not VENV.exists() else "it has no working Python"
    stamp = read_stamp()
    if not stamp:
        return "an earlier installation did not finish"
    if stamp.get("root") != str(ROOT):
        return "it was made in another directory"
    if stamp.get("pins") != digest(PINS):
        return "the pins have changed"
    return difference(read_pins(), installed())


def difference(pins: dict[str, str], found: dict[str, str]) -> str | None:
    """The first disagreement between pins and installed versions, and None when there is none."""
    for name, version in pins.items():
        if found.get(name) != version:
            return f"it has {name} {found.get(name, 'not at all')} instead of {version}"
    return next((f"it has {name}, which breaks transformers" for name in UNWANTED if name in found), None)


def read_pins() -> dict[str, str]:
    """Normalised name → version, in the order of the file."""
    pins = {}
    for number, line in enumerate(PINS.read_text(encoding="utf-8").splitlines(), start=1):
        requirement = line.partition("#")[0].strip()
        if not requirement:
            continue
        name, separator, version = requirement.partition("==")
        if not separator or not re.fullmatch(r"[A-Za-z0-9.+!_-]+", version):
            raise SetupError(f"{PINS}:{number}: '{requirement}' is no exact pin; write it as name==version")
        pins[normalised(name)] = version
    return pins


def installed() -> dict[str, str]:
    """Normalised name → version of what lies in .venv."""
    places = [str(place) for place in VENV.glob("lib/python*/site-packages")]
    return {normalised(found.metadata["Name"]): found.version for found in distributions(path=places)}


def normalised(name: str) -> str:
    """A project's name as indexes compare it: `Jinja2_x` and `jinja2-x` are the same."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def project_is_current() -> bool:
    """Whether this checkout is registered in .venv with the pyproject.toml of now."""
    return "rlhf" in installed() and read_stamp().get("project") == digest(PROJECT)


def read_stamp() -> dict[str, str]:
    """What .venv was made from; empty when it is unfinished or not ours."""
    try:
        return json.loads(STAMP.read_text())
    except (OSError, ValueError):
        return {}


def write_stamp(content: dict[str, str]) -> None:
    temporary = STAMP.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(temporary, STAMP)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
