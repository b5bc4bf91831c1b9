"""`rlhf compare`, `watch`, `checkpoints` and `replay`: what the directories of runs say."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf import config as configs
from rlhf.errors import ConfigError

DAMAGED = 1  # a checkpoint is not as it was written


def add_run_commands(app: typer.Typer) -> None:
    """Add `compare`, `checkpoints`, `replay` and `watch`."""
    app.command("compare")(compare_runs)
    app.command("checkpoints")(show_checkpoints)
    app.command("replay")(replay_batch)
    app.command("watch")(watch_run)


def compare_runs(directories: Annotated[list[Path], typer.Argument(metavar="RUN…", help="run directories")]) -> None:
    """Print the results of pipeline runs side by side."""
    from rlhf.summary import compare

    compare(directories)


def show_checkpoints(
    run: Annotated[Path, typer.Argument(help="output of a run that trains, or a pipeline's run directory")],
    export: Annotated[Path | None, typer.Option(help="write a checkpoint's policy as a transformers directory")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="of the checkpoint to export; default: the newest")] = None,
) -> None:
    """List the checkpoints of a PPO, pretraining, SFT or reward model run after reading every byte of them, and those
    that runs have passed over; exit code 1 when one that a run could go on from is damaged, or none is left."""
    from rlhf.training.listing import newest_attempt, work_directory

    if step is not None and export is None:
        raise ConfigError("--step: says which checkpoint to export; give --export DIRECTORY, too")
    work = work_directory(run.absolute())
    attempt = newest_attempt(work)
    if attempt is None:
        _show_of_ppo(work, step, export)
    elif export is None:
        _show_of_job(attempt)
    else:
        raise ConfigError(f"--export: is of PPO's checkpoints; {work} is of a run that publishes its best model itself")


def _show_of_ppo(work: Path, step: int | None, export: Path | None) -> None:
    from rlhf.ppo.config import PPOConfig
    from rlhf.training.listing import checkpoints_of, passed_over

    config = configs.load(PPOConfig, [str(work / "config.yaml")], [])
    if export is not None:
        _export(config, work / "checkpoints", step, export)
    else:
        _print(list(checkpoints_of(work, config)), passed_over(work / "checkpoints"), config.best_checkpoint)


def _show_of_job(attempt: Path) -> None:
    from rlhf.training.listing import checkpoints_of_job, passed_over

    _print(list(checkpoints_of_job(attempt)), passed_over(attempt), "validation_loss")


def _print(listed: Sequence[Any], aside: Sequence[Any], metric: str | None) -> None:
    """Those that a run could go on from decide the exit code; those put `aside` are history, and may be deleted."""
    for checkpoint in [*listed, *aside]:
        typer.echo(checkpoint.line(metric))
    if aside:
        paths = shlex.join(str(checkpoint.path) for checkpoint in aside)
        typer.echo(f"no run reads what was passed over; to delete it: rm -r {paths}")
    if any(checkpoint.wrong is not None for checkpoint in listed) or (aside and not listed):
        raise typer.Exit(DAMAGED)


def _export(config: Any, checkpoints: Path, step: int | None, target: Path) -> None:
    from rlhf.training.checkpoint import published
    from rlhf.training.export import export_checkpoint

    found = [path for path in published(checkpoints) if step is None or path.name == f"step_{step:06d}"]
    if not found:
        asked = "" if step is None else f" of step {step}"
        raise ConfigError(f"--step: {checkpoints} has no checkpoint{asked}; list them without --export")
    export_checkpoint(config, found[-1], target)
    typer.echo(f"{target}: the policy of {found[-1].name}")


def replay_batch(
    batch: Annotated[
        Path, typer.Argument(help="one of failures/*.safetensors, or a bad_batch_*.safetensors, of a work directory")
    ],
) -> None:
    """Compute a batch that was not finite again, in this process, and say where the first such number comes from."""
    from rlhf.training.replay import replay

    for line in replay(batch):
        typer.echo(line)


def watch_run(
    run: Annotated[Path, typer.Argument(help="run directory of a pipeline, or the output of a stage")],
    once: Annotated[bool, typer.Option("--once", help="print the state of now, and end")] = False,
) -> None:
    """Show how a run goes on, from its directory alone: stages, numbers, phases, checkpoint, notes. Ctrl-C ends it."""
    from rlhf.watch.live import watch

    watch(run, once)
