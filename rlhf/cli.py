"""The command line: `rlhf STAGE FILE… key.sub=value…`. Everything is put together here.

The only module that imports `actors`. Nothing heavy is imported before a stage runs, so `--help` is immediate.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from rlhf import config as configs
from rlhf.config import Config, suggestion
from rlhf.errors import ConfigError, Terminated, UserError
from rlhf.pipeline import Job, PipelineConfig, Stage, deferred, jobs, require_runnable, run_job, write_config
from rlhf.progress import Progress, for_this_output
from rlhf.termination import EXIT_CODE

STAGES: dict[str, Stage] = {
    "data": Stage(
        "rlhf.stages.data:DataConfig", "rlhf.stages.data:run", "Write or read, clean and split the data.", False
    ),
    "tokenizer": Stage(
        "rlhf.stages.tokenizer:TokenizerConfig", "rlhf.stages.tokenizer:run", "Train a byte-level BPE tokenizer.", False
    ),
    "pretrain": Stage(
        "rlhf.stages.pretrain:PretrainConfig", "rlhf.stages.pretrain:run", "Pretrain a language model (Ray Train)."
    ),
    "sft": Stage("rlhf.stages.sft:SftConfig", "rlhf.stages.sft:run", "Finetune on instructions (Ray Train)."),
    "pairs": Stage(
        "rlhf.data.pairs:PairsConfig", "actors.pairs_job:run", "Sample and label preference pairs (vLLM)."
    ),
    "reward": Stage("rlhf.stages.reward:RewardConfig", "rlhf.stages.reward:run", "Train a reward model (Ray Train)."),
    "ppo": Stage("rlhf.ppo.config:PPOConfig", "actors.ppo_job:run", "Train the policy with PPO."),
    "evaluate": Stage(
        "rlhf.evaluation.config:EvaluateConfig", "actors.evaluate_job:run", "Compare models on held-out prompts (vLLM)."
    ),
    "report": Stage(
        "rlhf.stages.report:ReportConfig", "rlhf.stages.report:run", "Write one HTML page about a run.", False
    ),
}
OTHER_COMMANDS = ("run", "compare", "keys", "serve-reward", "checkpoints")
USER_ERROR = 2
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
DAMAGED = 1  # `rlhf checkpoints` found one that is not as it was written
INTERRUPTED = 130  # as a shell has it: 128 + SIGINT

Arguments = Annotated[
    list[str] | None, typer.Argument(help="config files, then key.sub=value overrides", show_default=False)
]


def load_object(name: str) -> Any:
    """`module:attribute` → the object."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files and overrides; raises ConfigError for a word that is neither."""
    files = [word for word in arguments if word.endswith((".yaml", ".yml")) and "=" not in word]
    overrides = [word for word in arguments if "=" in word]
    for word in arguments:
        if word not in files and word not in overrides:
            raise ConfigError(f"'{word}': neither a config file (….yaml) nor an override (key.sub=value)")
    return files, overrides


def stage_command(name: str, stage: Stage) -> Callable[[list[str] | None], None]:
    """The command of one stage."""

    def command(arguments: Arguments = None) -> None:
        config = configs.load(load_object(stage.config), *split_arguments(arguments or ()))
        job = Job(name, config, deferred(stage.run, load_object))
        _require_lasting("output", config.output)
        require_runnable([job])
        with _session(config, stage.uses_ray), _progress() as progress:
            run_job(job, progress)

    command.__doc__ = f"{stage.summary}\n\nKeys: `rlhf keys {name}`."
    return command


def run_pipeline(arguments: Arguments = None) -> None:
    """Run every stage of a pipeline config, skipping those whose result is still valid."""
    config = configs.load(PipelineConfig, *split_arguments(arguments or ()))
    todo = jobs(config, STAGES, load_object)
    _require_lasting("run_dir", config.run_dir)
    require_runnable(todo)
    write_config(config.run_dir, config)
    from rlhf.memory import PeakMemory
    from rlhf.summary import Measured, show, summarise

    uses_ray = any(STAGES[job.name].uses_ray for job in todo)
    began, skipped = time.perf_counter(), False
    with PeakMemory() as memory, _session(config, uses_ray), _progress() as progress:
        for position, job in enumerate(todo):
            require_runnable(todo[position:])  # again, now that the stages before have published
            seconds = run_job(job, progress)
            skipped = skipped or seconds is None
            call_s = None if skipped else time.perf_counter() - began
            peak = None if _on_other_cluster(config) else memory.gib
            summarise(config.run_dir, config.seed, job.name, Measured(seconds, call_s, peak))
    show(config.run_dir)


def show_keys(stage: Annotated[str, typer.Argument(help="a stage, or 'run'")]) -> None:
    """List every config key of a stage with type, default and meaning."""
    from rlhf.keys import describe

    if stage != "run" and stage not in STAGES:
        raise ConfigError(f"'{stage}': unknown stage{suggestion(stage, [*STAGES, 'run'])}")
    model = PipelineConfig if stage == "run" else load_object(STAGES[stage].config)
    for line in describe(model):
        typer.echo(line)


def compare_runs(directories: Annotated[list[Path], typer.Argument(metavar="RUN…", help="run directories")]) -> None:
    """Print the results of pipeline runs side by side."""
    from rlhf.summary import compare

    compare(directories)


def serve_reward(
    model: Annotated[str, typer.Argument(help="directory or hub name of a reward model")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8901,
    token_env: Annotated[str | None, typer.Option(help="environment variable with the bearer token to ask for")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    micro_batch_tokens: Annotated[int, typer.Option(min=1, help="padded tokens of one forward pass")] = 16384,
) -> None:
    """Serve a reward model over HTTP: POST /score, as `reward.parts.NAME: {kind: http}` asks."""
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"--precision: '{precision}'{suggestion(precision, ['float32', 'bfloat16'])}")
    from rlhf.rewards.server import serve

    serve(model, host, port, token_env, precision, micro_batch_tokens)


def show_checkpoints(
    run: Annotated[Path, typer.Argument(help="output of a PPO run, or a pipeline's run directory")],
    export: Annotated[Path | None, typer.Option(help="write a checkpoint's policy as a transformers directory")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="of the checkpoint to export; default: the newest")] = None,
) -> None:
    """List the checkpoints of a PPO run after reading every byte of them; exit code 1 when one is damaged."""
    from rlhf.ppo.config import PPOConfig
    from rlhf.training.listing import checkpoints_of, work_directory

    work = work_directory(run.absolute())
    config = configs.load(PPOConfig, [str(work / "config.yaml")], [])
    if step is not None and export is None:
        raise ConfigError("--step: says which checkpoint to export; give --export DIRECTORY, too")
    if export is not None:
        _export(config, work / "checkpoints", step, export)
        return
    listed = list(checkpoints_of(work, config))
    for checkpoint in listed:
        typer.echo(checkpoint.line(config.best_checkpoint))
    if any(checkpoint.damage is not None for checkpoint in listed):
        raise typer.Exit(DAMAGED)


def _export(config: Any, checkpoints: Path, step: int | None, target: Path) -> None:
    from rlhf.training.export import export_checkpoint

    found = sorted(checkpoints.glob("step_*" if step is None else f"step_{step:06d}"))
    if not found:
        raise ConfigError(f"--step: {checkpoints} has no checkpoint of step {step}; list them without --export")
    export_checkpoint(config, found[-1], target)
    typer.echo(f"{target}: the policy of {found[-1].name}")


def _require_lasting(key: str, directory: Path) -> None:
    from actors.session import require_absolute_output

    require_absolute_output(key, directory)


def _on_other_cluster(config: PipelineConfig) -> bool:
    """Whether the roles are no descendants of this process, so that it cannot see their memory."""
    return bool(config.cluster.address or os.environ.get("RAY_ADDRESS"))


def _session(config: Config, needed: bool) -> AbstractContextManager[None]:
    if not needed:
        return nullcontext()
    from actors.session import ray_session

    return ray_session(config.cluster)


class _progress:
    """The progress display for this output, closed on leaving."""

    def __enter__(self) -> Progress:
        self.progress = for_this_output()
        return self.progress

    def __exit__(self, *_: object) -> None:
        self.progress.close()


def command_line() -> typer.Typer:
    """A command per stage, one for a pipeline, one that compares runs, and the list of keys."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False,
        help="Reinforcement learning from human feedback on Ray, vLLM and DeepSpeed, from tokenizer to report.",
        epilog="Every command takes YAML files, merged left to right, then key.sub=value overrides.",
    )
    for name, stage in STAGES.items():
        app.command(name, help=f"{stage.summary} Keys: rlhf keys {name}")(stage_command(name, stage))
    app.command("run")(run_pipeline)
    app.command("compare")(compare_runs)
    app.command("keys")(show_keys)
    app.command("serve-reward")(serve_reward)
    app.command("checkpoints")(show_checkpoints)
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point.

    Exit code 0; 2 for an error of the user's, with one sentence on stderr; 1 for a bug of ours; 130 on Ctrl-C;
    143 when a run has ended on SIGTERM and kept its state.
    """
    _quieten_engines()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _require_command(words[0])
        sys.exit(command_line()(args=words, prog_name="rlhf", standalone_mode=False))
    except UserError as error:
        _refuse(str(error))
    except OSError as error:
        if error.errno not in DISK_FULL:
            raise
        _refuse(f"no room left on the disk ({error.filename or 'while writing'}); free some, and run the same command")
    except Terminated as ended:
        print(ended, flush=True)
        sys.exit(EXIT_CODE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        _refuse(f"{error.format_message().rstrip('.')}; see 'rlhf {words[0]} --help'")


def _require_command(word: str) -> None:
    known = [*STAGES, *OTHER_COMMANDS]
    if word not in known and not word.startswith("-"):
        raise ConfigError(f"'{word}': unknown stage{suggestion(word, known)}")


def _refuse(message: str) -> NoReturn:
    """One line per problem on stderr, each with the command's name before it."""
    sys.stdout.flush()
    for line in message.splitlines():
        print(f"rlhf: {line}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _quieten_engines() -> None:
    """Quiet engines: their banners and bars are not this command's output."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
