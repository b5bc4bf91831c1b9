"""The run that a manifest carries: its config, where it writes, and the command that starts it and goes on with it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import yaml

from rlhf.cluster.mount import mount_problem
from rlhf.errors import ConfigError
from rlhf.pipeline import is_hub_name
from rlhf.stage import NamedInput, StageConfig, inputs

CONFIG_DIRECTORY = "/config"
CONFIG_FILE = "config.yaml"
_SERVED = ("ppo", "sft", "pretrain")  # the newest model of a pipeline comes first


@dataclass(frozen=True)
class ClusterRun:
    """A validated config as it will run in pods."""

    command: str  # run, or the name of a stage
    output: str  # absolute, in the volume
    raw: Mapping[str, Any]  # what the files and overrides say, without the directory of the run
    stages: Sequence[tuple[str, StageConfig]]  # in the order in which they run

    @property
    def config_text(self) -> str:
        """The config as one file, without references between its parts."""
        return yaml.dump(dict(self.raw), Dumper=_Plain, sort_keys=False, allow_unicode=True, width=110)

    @property
    def entrypoint(self) -> str:
        """The command that starts the run, and goes on with it when it is given again."""
        file = f"{CONFIG_DIRECTORY}/{CONFIG_FILE}"
        return shlex.join(["rlhf", self.command, file, f"{output_key(self.command)}={self.output}"])

    @property
    def object_store_gib(self) -> float:
        return max(config.cluster.object_store_gib for _, config in self.stages)

    def served(self) -> tuple[str, str]:
        """The directory of the model that the run publishes, and the stage that makes it. ConfigError without one."""
        found = dict(self.stages)
        stage = next((stage for stage in _SERVED if stage in found), None)
        if stage is None:
            raise ConfigError(f"--kind rayservice: no stage of {', '.join(found)} publishes a model to serve; add ppo")
        return f"{self.output}/{stage}" if self.command == "run" else self.output, stage

    def config(self, stage: str) -> StageConfig:
        """Of a stage that the run has."""
        return dict(self.stages)[stage]


def output_key(command: str) -> str:
    """The key of a config that names the directory of the run."""
    return "run_dir" if command == "run" else "output"


def output_of(command: str, raw: Mapping[str, Any], mount: str, name: str) -> str:
    """The directory of the run: the config's own where that lies in the volume, else one by the run's name."""
    given = str(raw.get(output_key(command), ""))
    if given.startswith(f"{mount}/"):
        return given
    return f"{mount}/{name}" if command == "run" else f"{mount}/{name}/{command}"


class _Plain(yaml.SafeDumper):
    """Writes what stands twice twice: a reader should not have to follow references."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def require_in_volume(run: ClusterRun, mount: str) -> None:
    """Raise ConfigError for every input that pods could not see, and for a cluster of the config's own."""
    given, problems = _inputs(run), []
    other = _common_root([item.value for _, item in given])
    for key, item in given:
        if PurePosixPath(item.value).is_relative_to(mount):
            continue
        away = f"is not in the volume at {mount}" if item.value.startswith("/") else "is relative"
        hub = " or a hub name (owner/name)" if item.hub else ""
        copy = f"copy it into the volume, and give {mount}/…{hub}"
        problems.append(f"{key}: {item.value} {away}; {f'give --mount {other}, or {copy}' if other else copy}")
    address = run.stages[0][1].cluster.address
    if address is not None:
        problems.append(f"cluster.address: {address} is another cluster than this manifest makes; remove it")
    if problems:
        raise ConfigError("\n".join(problems))


def _inputs(run: ClusterRun) -> list[tuple[str, NamedInput]]:
    """Key and input of every path that a run reads and does not make."""
    return [
        (f"stages.{name}.{item.key}" if run.command == "run" else item.key, item)
        for name, config in run.stages for item in inputs(config)
        if not (item.hub and is_hub_name(item.value)) and not PurePosixPath(item.value).is_relative_to(run.output)
    ]


def _common_root(values: Sequence[str]) -> str | None:
    """The first directory of all paths, `/shared`: where the volume may lie. None where they have no such one."""
    roots = {"/".join(parts[:2]) if len(parts := value.split("/")) > 2 else "" for value in values}
    root = roots.pop() if len(roots) == 1 else ""
    return None if mount_problem(root) else root
