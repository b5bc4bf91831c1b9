"""Runs stages: one alone, or the stages of a run directory in order, skipping what is still valid."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import Field

from rlhf import artifacts, unfinished
from rlhf.artifacts import Artifact
from rlhf.at_hand import Run, working_for
from rlhf.config import LARGEST_SEED, Config, suggestion, validate
from rlhf.context import RunContext, work_of
from rlhf.errors import ConfigError, DataError, RunError
from rlhf.events import Remembering
from rlhf.ownership import config_once_taken, own
from rlhf.progress import Progress
from rlhf.stage import ClusterConfig, Directory, NamedInput, StageConfig, inputs, located, resolve_references

FILE_ENDINGS = (".jsonl", ".json", ".gz", ".txt", ".csv", ".parquet", ".yaml")


@dataclass(frozen=True)
class Stage:
    """A row of the stage table: where config and run are found (`module:name`), loaded when needed."""

    config: str
    run: str
    summary: str
    uses_ray: bool = True


@dataclass(frozen=True)
class Job:
    """A stage with its validated config, ready to run."""

    name: str
    config: StageConfig
    run: Callable[[Any, RunContext], Artifact]
    prefix: str = ""  # what stands before the stage's keys in messages


class PipelineConfig(Config):
    """A run directory and its stages, in the order in which they run."""

    run_dir: Directory = Field(description="directory of the run; every stage publishes a directory below it")
    seed: int = Field(0, ge=0, le=LARGEST_SEED, description="seed of every stage that does not set its own")
    cluster: ClusterConfig = ClusterConfig()
    sources: dict[str, Directory] = Field({}, description="name → directory of your own, for references `@name/file`")
    stages: dict[str, dict[str, Any]] = Field(min_length=1, description="stage name → its config without output")


def jobs(config: PipelineConfig, table: Mapping[str, Stage], resolve: Callable[[str], Any]) -> list[Job]:
    """Every stage of a pipeline, validated; raises one ConfigError that lists the problems of all stages."""
    found, errors = [], []
    places = {"run": config.run_dir, **config.sources, **{name: config.run_dir / name for name in config.stages}}
    for name, section in config.stages.items():
        if name not in table:
            errors.append(f"stages.{name}: unknown stage{suggestion(name, table)}")
            continue
        defaults = {"output": str(config.run_dir / name), "seed": config.seed, "cluster": config.cluster.model_dump()}
        raw = section
        try:
            raw = resolve_references(section, places, f"stages.{name}")
        except ConfigError as error:
            errors.append(str(error))
        try:
            validated = validate(resolve(table[name].config), {**defaults, **raw}, f"stages.{name}.")
            found.append(Job(name, validated, deferred(table[name].run, resolve), f"stages.{name}."))
        except ConfigError as error:
            errors.append(str(error))
    if errors:
        raise ConfigError("\n".join(errors))
    return found


def deferred(target: str, resolve: Callable[[str], Any]) -> Callable[[Any, RunContext], Artifact]:
    """A stage's run that is imported when it is called: Ray reads its environment when it is imported."""
    return lambda config, context: resolve(target)(config, context)


def require_runnable(todo: Sequence[Job]) -> None:
    """Refuse, before anything is started or written, what is sure to fail later; all problems in one RunError.

    That is an input which neither is there nor will be made by an earlier stage, and an output whose directory
    holds what this stage did not make: publishing would replace it.
    """
    problems: list[str] = []
    for position, job in enumerate(todo):
        for item in inputs(job.config):
            problem = _input_problem(item, todo[:position], todo[position:])
            problems += [f"{job.prefix}{item.key}: {problem}"] if problem else []
        problem = _output_problem(job) or unfinished.problem(work_of(job.config.output), job.config)
        problems += [f"{job.prefix}{problem}"] if problem else []
    if problems:
        raise RunError("\n".join(problems))


def _input_problem(item: NamedInput, before: Sequence[Job], rest: Sequence[Job]) -> str | None:
    """What is wrong with an input of the first of `rest`."""
    value = item.value
    if _maker(value, before) is not None:
        return None
    maker = _maker(value, rest)
    if maker is not None:
        which = "this very stage" if maker is rest[0] else f"stage '{maker.name}', which runs later,"
        return f"{value} is what {which} publishes; read what an earlier stage has published"
    if Path(value).absolute() == Path("/"):
        return "/ is the root of the file system; name a file or directory of your own"
    return None if Path(value).exists() or is_on_hub(item) else _absent(item)


def _maker(value: str, candidates: Sequence[Job]) -> Job | None:
    """The job whose output an input lies in."""
    path = Path(value).absolute()
    return next((job for job in candidates if path.is_relative_to(job.config.output.absolute())), None)


def _output_problem(job: Job) -> str | None:
    output = job.config.output
    try:
        require_own_directory(output)
    except RunError as error:
        return str(error)
    made_by = artifacts.load(output).manifest.stage if (output / artifacts.MANIFEST).is_file() else job.name
    if made_by == job.name:
        return None
    return f"output: {output} holds what stage '{made_by}' has published; name another directory"


def require_own_directory(path: Path) -> None:
    """A published artifact replaces what stood in its place, so that must be an artifact or nothing. RunError else."""
    if path.is_symlink() and not path.exists():
        raise RunError(f"output: {path} is a link to nothing; name a directory")
    if path.resolve().name == "" or path.name in ("", ".."):
        raise RunError(f"output: {path} is no directory of the stage's own; name a new one")
    if path.exists() and not path.is_dir():
        raise RunError(f"output: {path} is a file; name a directory")
    if path.is_dir() and any(path.iterdir()) and not (path / artifacts.MANIFEST).is_file():
        raise RunError(f"output: {path} holds files that no stage has published; name another directory, or empty it")


def run_job(job: Job, progress: Progress) -> float | None:
    """Run a stage unless its artifact still matches config and inputs; the resolved config is written beside it.

    Returns the seconds that it took, None when it was skipped.
    """
    context = RunContext(
        job.name, job.config.output, artifacts.digest(job.config.identity()), fingerprints(job.config),
        Remembering(progress, work_of(job.config.output)),
    )
    existing = context.existing()
    if existing is not None:
        progress.note(f"{job.name}: up to date ({context.directory})")
        return None
    started = time.perf_counter()
    run = Run.of(context.directory, context.stage)
    work = context.work
    with own(work, context.progress.note), config_once_taken(work, job.config) as take, working_for(run):
        job.run(located(job.config), replace(context, taken=take))
    seconds = time.perf_counter() - started
    progress.note(f"{job.name}: done in {seconds:.0f} s ({context.directory})")
    return seconds


def fingerprints(config: StageConfig) -> dict[str, str]:
    """Fingerprint of every input. Raises DataError for a path that does not exist."""
    found = {}
    for item in inputs(config):
        path = Path(item.value)
        if path.exists():
            found[item.key] = _fingerprint(item.key, path)
        elif is_on_hub(item):
            found[item.key] = f"hub:{item.value}"
        else:
            raise DataError(f"{item.key}: {_absent(item)}")
    return found


def _fingerprint(key: str, path: Path) -> str:
    try:
        return artifacts.input_fingerprint(path)
    except OSError as error:  # it may also have vanished meanwhile
        where = error.filename or path
        raise DataError(f"{key}: {where}: not readable ({error.strerror}); it is needed to know this input") from None


def _absent(item: NamedInput) -> str:
    remedy = "an existing path or a hub name (owner/name)" if item.hub else "an existing path"
    return f"{item.value}: no such file or directory; give {remedy}"


def is_on_hub(item: NamedInput) -> bool:
    """Whether an input that is not here is to be fetched."""
    return item.hub and is_hub_name(item.value)


def is_hub_name(value: str) -> bool:
    """`owner/name`, and nothing that could be meant as a path."""
    parts = value.split("/")
    looks_like_path = value.startswith((".", "~")) or value.endswith(FILE_ENDINGS) or Path(parts[0]).is_dir()
    return len(parts) == 2 and all(parts) and not looks_like_path
