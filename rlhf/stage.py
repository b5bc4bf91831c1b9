"""What every stage config has in common, and how its inputs are named.

An input is a path, a hub name, or `@stage/file`: what another stage of the same run directory
published. Inputs are the only fields with that meaning, so they can be resolved and fingerprinted
without knowing the stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

from pydantic import AfterValidator, BaseModel, Field

from rlhf.config import LARGEST_SEED, Config
from rlhf.errors import ConfigError

PathT = TypeVar("PathT", str, Path)
_LONGEST_NAME, _LONGEST_PATH = 255 - len(".checkpoints.draft"), 4000  # bytes, with room for what is put to them


@dataclass(frozen=True)
class InputMarker:
    """Marks a config field whose value is read from disk by the stage, or, where that may be, from a hub."""

    hub: bool = False


def possible(path: PathT) -> PathT:
    """The path itself. Raises ValueError for what no file system can hold, which then needs to be asked no more."""
    text = str(path)
    if not text or "\x00" in text:
        raise ValueError("should be a path")
    try:
        longest = max(len(part) for part in text.encode().split(b"/"))
    except UnicodeEncodeError:
        raise ValueError("should be a path in UTF-8") from None
    if longest > _LONGEST_NAME or len(text.encode()) > _LONGEST_PATH:
        raise ValueError(f"should be a path of at most {_LONGEST_PATH} bytes, {_LONGEST_NAME} in each name")
    return path


Directory = Annotated[Path, AfterValidator(possible)]
Input = Annotated[str, InputMarker(), AfterValidator(possible)]
ModelInput = Annotated[str, InputMarker(hub=True), AfterValidator(possible)]
"""A model or tokenizer: a directory, or a hub name (owner/name)."""


class NamedInput(NamedTuple):
    """An input under its dotted key; `hub`: whether its value may be a hub name."""

    key: str
    value: str
    hub: bool


class ClusterConfig(Config):
    """The Ray cluster that a stage runs on. Inside a submitted job, or where RAY_ADDRESS is set, it is that one."""

    address: str | None = Field(None, description="of a running cluster; null: RAY_ADDRESS, else start one here")
    cpus: int | None = Field(
        None, ge=1, le=65_536, description="CPU cores of a cluster started here; default: this machine's"
    )
    debug: bool = Field(
        False, description="a cluster started here shows every process's output, and breakpoint() in any waits for you"
    )
    dashboard: bool = Field(False, description="a cluster started here also serves the dashboard, on loopback")
    object_store_gib: float = Field(1.0, gt=0, le=1_000_000, description="object store of a cluster started here, GiB")


ELSEWHERE = ("output", "cluster")  # where a run is written and made does not make it another run
BORNE = ("deadline_s", "max_failures", "not_finite")  # nor does, of `training`, what it bears before it ends


def identity_of(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Of the config of a stage, as it was written, what makes its artifact what it is."""
    kept = {key: value for key, value in raw.items() if key not in ELSEWHERE}
    if isinstance(training := kept.get("training"), Mapping):
        kept["training"] = {key: value for key, value in training.items() if key not in BORNE}
    return kept


class StageConfig(Config):
    """Base of every stage's config."""

    output: Directory = Field(description="directory that the stage publishes")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of everything random in the stage")
    cluster: ClusterConfig = ClusterConfig()

    def identity(self) -> dict[str, Any]:
        """What makes the artifact what it is: everything but where it is written, where it is made, and what a training
        job bears before it ends."""
        return identity_of(self.model_dump(mode="json"))


class ActorStageConfig(StageConfig):
    """Base of the configs of stages that start actors of their own, and survive their loss."""

    deadline_s: float = Field(
        1800.0, gt=0, description="seconds without a phase's end after which a role that does not answer is given up"
    )
    replacement_s: float = Field(
        900.0, ge=0, description="seconds to wait for a node to come after a loss that has left too little room"
    )


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def inputs(config: BaseModel, prefix: str = "") -> Iterator[NamedInput]:
    """Every input of a config."""
    for name, field in type(config).model_fields.items():
        marker = next((item for item in field.metadata if isinstance(item, InputMarker)), None)
        yield from _nested(getattr(config, name), f"{prefix}{name}", marker or _marker_within(field.annotation))


def located(config: ConfigT) -> ConfigT:
    """The same config with every input that is here by its absolute path: Ray's processes work in other directories."""
    raw = config.model_dump(mode="json")  # lists, where the config holds tuples
    for item in inputs(config):
        if Path(item.value).exists():
            _replace(raw, item.key.split("."), str(Path(item.value).absolute()))
    return type(config).model_validate(raw)


def _replace(raw: Any, keys: Sequence[str], value: str) -> None:
    """Set what lies under the keys of nested mappings and lists."""
    *path, last = [int(key) if key.isdigit() else key for key in keys]
    for key in path:
        raw = raw[key]
    raw[last] = value


def _nested(value: Any, key: str, marker: InputMarker | None) -> Iterator[NamedInput]:
    if isinstance(value, BaseModel):
        yield from inputs(value, f"{key}.")
    elif isinstance(value, str) and marker is not None:
        yield NamedInput(key, value, marker.hub)
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from _nested(item, f"{key}.{name}", marker)
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            yield from _nested(item, f"{key}.{index}", marker)


def _marker_within(annotation: Any) -> InputMarker | None:
    """The marker of a container's elements (`list[Input]`, `ModelInput | None`)."""
    if isinstance(annotation, InputMarker):
        return annotation
    parts = getattr(annotation, "__metadata__", ()) + getattr(annotation, "__args__", ())
    return next((found for part in parts if (found := _marker_within(part)) is not None), None)


def resolve_references(raw: Any, places: Mapping[str, Path], key: str = "") -> Any:
    """Replace every string `@name/file` in a raw config by the file's path in the place of that name.

    Raises ConfigError, with the key, for a name that is no place, and for a file that is not below it.
    """
    if isinstance(raw, str):
        return _resolve(raw, places, key) if raw.startswith("@") else raw
    if isinstance(raw, Mapping):
        return {name: resolve_references(value, places, f"{key}.{name}") for name, value in raw.items()}
    if isinstance(raw, list):
        return [resolve_references(value, places, f"{key}.{index}") for index, value in enumerate(raw)]
    return raw


def _resolve(reference: str, places: Mapping[str, Path], key: str) -> str:
    name, _, rest = reference[1:].partition("/")
    if name not in places:
        raise ConfigError(
            f"{key}: '{reference}' refers to '{name}', which is neither a stage nor a source of this pipeline "
            f"(known: {', '.join(places)}); add the stage, or give sources.{name}=DIRECTORY"
        )
    if rest.startswith("/") or ".." in rest.split("/"):
        raise ConfigError(f"{key}: '{reference}' leads out of '{name}'; write @{name}/FILE, or a path without @")
    return str(places[name] / rest) if rest else str(places[name])
