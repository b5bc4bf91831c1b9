"""`rlhf cluster`: writes manifests from a run's config, checks them, and ends a run before its pod."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rlhf import config as configs
from rlhf.commands.arguments import split_arguments
from rlhf.commands.stages import stage_of
from rlhf.config import suggestion
from rlhf.errors import ConfigError
from rlhf.pipeline import PipelineConfig, Stage, jobs
from rlhf.stage import StageConfig

if TYPE_CHECKING:
    from rlhf.cluster.options import Options
    from rlhf.cluster.run import ClusterRun

FAULTY = 2
Arguments = Annotated[list[str], typer.Argument(help="config files, then key.sub=value overrides", show_default=False)]


def cluster_commands(stages: Mapping[str, Stage], resolve: Callable[[str], Any]) -> typer.Typer:
    """The group of commands. `stages`: the table of stages; `resolve`: finds what it names."""
    app = typer.Typer(add_completion=False, no_args_is_help=True, help="Kubernetes: write and check manifests.")
    app.command("render")(Manifests(stages, resolve).render)
    app.command("validate")(validate)
    app.command("drain")(drain)
    return app


class Manifests:
    """Writes manifests of the stages that `stages` names and `resolve` finds."""

    def __init__(self, stages: Mapping[str, Stage], resolve: Callable[[str], Any]) -> None:
        self._stages, self._resolve = stages, resolve

    def render(
        self,
        arguments: Arguments,
        image: Annotated[str, typer.Option(help="image of head, workers and submitter, with a tag or digest")],
        kind: Annotated[str, typer.Option(help="rayjob, raycluster or rayservice")] = "rayjob",
        stage: Annotated[str | None, typer.Option(help="of a config of one stage; default: by its keys")] = None,
        name: Annotated[str, typer.Option(help="of the run and its objects")] = "rlhf",
        namespace: Annotated[str, typer.Option()] = "rlhf",
        storage: Annotated[str, typer.Option(help="claim of the ReadWriteMany volume of runs")] = "rlhf-runs",
        mount: Annotated[str, typer.Option(help="where pods see that volume")] = "/runs",
        grace: Annotated[int, typer.Option(min=1, help="seconds for a step and its checkpoint before a kill")] = 300,
        retries: Annotated[int, typer.Option(min=0, help="new clusters after failures")] = 3,
        deadline: Annotated[int | None, typer.Option(min=1, help="seconds of the job, retries included")] = None,
        gpus_per_node: Annotated[int | None, typer.Option(min=0, help="default: as many as fit, 8 at most")] = None,
        cpus_per_node: Annotated[int | None, typer.Option(min=2, help="default: what the roles reserve, and 1")] = None,
        memory: Annotated[int | None, typer.Option(min=1, help="GiB of a worker beside /dev/shm")] = None,
        model: Annotated[str | None, typer.Option(help="sizes for every model, as of rlhf plan")] = None,
        gpu: Annotated[str, typer.Option(help="kind of GPU that a rayservice is sized for")] = "H100-80",
        head_cpus: Annotated[int, typer.Option(min=1, help="cores of the head")] = 4,
        head_memory: Annotated[int, typer.Option(min=2, help="GiB of the head beside /dev/shm")] = 16,
        queue: Annotated[str | None, typer.Option(help="queue of Kueue to wait in")] = None,
        secret: Annotated[str | None, typer.Option(help="Secret whose keys become environment variables")] = None,
        out: Annotated[Path | None, typer.Option(help="file to write; default: print")] = None,
    ) -> None:
        """Write the manifest of a run, from the config that the run reads."""
        _require_packages()
        from rlhf.cluster.options import Options

        options = Options(
            kind=kind, image=image, name=name, namespace=namespace, storage=storage, mount=mount, grace=grace,
            retries=retries, deadline=deadline, gpus_per_node=gpus_per_node, cpus_per_node=cpus_per_node, memory=memory,
            model=model, gpu=gpu, head_cpus=head_cpus, head_memory=head_memory, queue=queue, secret=secret,
        )
        files, overrides = split_arguments(arguments)
        raw = configs.read_merged(files, overrides)
        run = _run(raw, _command(stage, raw, files, self._stages), options, self._stages, self._resolve)
        _write(_checked(run, options, [*arguments, *_words(options, stage)]), out)


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="manifests", show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="advice counts as a fault")] = False,
) -> None:
    """Check manifests without a cluster; exit code 2 when the API server or the operator would refuse one."""
    _require_packages()
    from rlhf.cluster.validate import check_file

    faulty = False
    for file in files:
        checked = check_file(file)
        faulty |= bool(checked.faults) or (strict and bool(checked.advice))
        for line in checked.faults:
            typer.echo(line, err=True)
        for line in checked.advice:
            typer.echo(f"advice: {line}", err=True)
        for line in checked.unknown:
            typer.echo(line, err=True)
        if not checked.faults:
            typer.echo(f"{file}: {checked.verdict}")
    if faulty:
        raise typer.Exit(FAULTY)


def drain(
    wait: Annotated[float, typer.Option(min=0, help="seconds that the run has for its step and checkpoint")] = 300,
) -> None:
    """Ask the submitted run of this machine to end with a checkpoint, and wait for it (a preStop hook)."""
    from rlhf.cluster.drain import drain as drain_runs

    for number in drain_runs(wait):
        typer.echo(f"process {number} was asked to end")


def _require_packages() -> None:
    """Raises ConfigError without the packages of the extra `cluster`."""
    for name in ("jsonschema", "kubernetes_validate"):
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise ConfigError(
                f"manifests are checked with {name}, which is not installed; pip install 'rlhf[cluster]'"
            ) from None


def _command(stage: str | None, raw: Mapping[str, Any], files: Sequence[str], stages: Mapping[str, Stage]) -> str:
    """The command that runs the config in pods: the stage that was named, else what the config tells."""
    if stage is None:
        return stage_of(raw, files, stages, "Say it: --stage sft")
    if stage not in stages:
        raise ConfigError(f"--stage: '{stage}'{suggestion(stage, stages)}")
    return stage


def _run(
    raw: dict[str, Any], command: str, options: Options, stages: Mapping[str, Stage], resolve: Callable[[str], Any]
) -> ClusterRun:
    """The run of a merged config, validated as the run itself would."""
    from rlhf.cluster.run import ClusterRun, output_key, output_of

    key, output = output_key(command), output_of(command, raw, options.mount, options.name)
    placed = {**raw, key: output}
    found: list[tuple[str, StageConfig]] = []
    if command == "run":
        found = [(job.name, job.config) for job in jobs(configs.validate(PipelineConfig, placed), stages, resolve)]
    else:
        found = [(command, configs.validate(resolve(stages[command].config), placed))]
    return ClusterRun(command, output, {name: value for name, value in raw.items() if name != key}, found)


def _words(options: Options, stage: str | None) -> list[str]:
    """The options as they would be given, those with their defaults left out."""
    words = ["--kind", options.kind, "--image", options.image, *(["--stage", stage] if stage else [])]
    for field in fields(options):
        value = getattr(options, field.name)
        if field.name not in ("kind", "image") and value != field.default:
            words += [f"--{field.name.replace('_', '-')}", str(value)]
    return words


def _checked(run: ClusterRun, options: Options, words: list[str]) -> str:
    """The manifest, which our own check must find nothing in."""
    from rlhf.cluster.documents import parse_documents
    from rlhf.cluster.render import render
    from rlhf.cluster.validate import check_documents

    text = render(run, options, ["rlhf", "cluster", "render", *words])
    checked = check_documents(parse_documents(text, "rendered"), "rendered")
    wrong = [*checked.faults, *checked.advice, *checked.unknown]
    if wrong:
        raise AssertionError("\n".join(wrong))
    return text


def _write(text: str, out: Path | None) -> None:
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"--out: {out}: not writable ({error.strerror}); name another file") from None
    typer.echo(f"{out}: written")
