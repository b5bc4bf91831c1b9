"""The command line: `rlhf STAGE FILE… key.sub=value…`. Everything is put together here.

The only module that imports `actors`. Nothing heavy is imported before a stage runs, so `--help` is immediate.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import typer

from rlhf import config as configs
from rlhf.cluster.commands import cluster_commands
from rlhf.commands.arguments import Arguments, split_arguments
from rlhf.commands.configs import add_config_commands
from rlhf.commands.machine import add_machine_commands
from rlhf.commands.plan import add_plan_command
from rlhf.commands.runs import add_run_commands
from rlhf.config import Config, suggestion
from rlhf.errors import ConfigError, Terminated, UserError
from rlhf.full_disk import full_store, where_full
from rlhf.ownership import config_beside, own
from rlhf.pipeline import Job, PipelineConfig, Stage, deferred, jobs, require_runnable, run_job
from rlhf.progress import Progress, for_this_output
from rlhf.secrets import redacted, require_no_secrets
from rlhf.startup import starting
from rlhf.termination import EXIT_CODE, ends_process

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
OTHER_COMMANDS = (
    "run", "compare", "keys", "config", "serve-reward", "checkpoints", "cluster", "plan", "doctor", "watch", "replay",
)
USER_ERROR = 2
INTERRUPTED = 130  # as a shell has it: 128 + SIGINT

def load_object(name: str) -> Any:
    """`module:attribute` → the object."""
    module, _, attribute = name.partition(":")
    return getattr(import_module(module), attribute)


def stage_command(name: str, stage: Stage) -> Callable[[list[str] | None], None]:
    """The command of one stage."""

    def command(arguments: Arguments = None) -> None:
        config = configs.load(load_object(stage.config), *split_arguments(arguments or ()))
        require_no_secrets(config.model_dump(mode="json"))
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
    require_no_secrets(config.model_dump(mode="json"))
    todo = jobs(config, STAGES, load_object)
    _require_lasting("run_dir", config.run_dir)
    require_runnable(todo)
    from rlhf.memory import PeakMemory
    from rlhf.summary import Measured, show, summarise

    uses_ray = any(STAGES[job.name].uses_ray for job in todo)
    began, skipped = time.perf_counter(), False
    with PeakMemory() as memory, _progress() as progress, own(config.run_dir, progress.note), \
            _session(config, uses_ray), config_beside(config.run_dir, config) as keep_config:
        for position, job in enumerate(todo):
            require_runnable(todo[position:])  # again, now that the stages before have published
            seconds = run_job(job, progress)
            if seconds is not None:
                keep_config()
            skipped = skipped or seconds is None
            call_s = None if skipped else time.perf_counter() - began
            peak = None if _on_other_cluster(config) else memory.gib
            summarise(config.run_dir, config.seed, job.name, Measured(seconds, call_s, peak))
    show(config.run_dir)


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
    """A command per stage, one for a pipeline, and those of rlhf/commands and rlhf/cluster."""
    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False,
        help="Reinforcement learning from human feedback on Ray, vLLM and DeepSpeed, from tokenizer to report.",
        epilog="Every command takes YAML files, merged left to right, then key.sub=value overrides.",
    )
    for name, stage in STAGES.items():
        app.command(name, help=f"{stage.summary} Keys: rlhf keys {name}")(stage_command(name, stage))
    app.command("run")(run_pipeline)
    add_config_commands(app, STAGES, load_object)
    add_run_commands(app)
    add_plan_command(app, STAGES, load_object)
    add_machine_commands(app)
    app.add_typer(cluster_commands(STAGES, load_object), name="cluster")
    return app


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point.

    Exit code 0; 2 for an error of the user's, with one sentence on stderr; 1 for a bug of ours; 130 on Ctrl-C;
    143 when a run has ended on SIGTERM and kept its state.
    """
    starting()
    _quieten_engines()
    ends_process()
    words = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        _require_command(words[0])
        sys.exit(command_line()(args=words, prog_name="rlhf", standalone_mode=False))
    except UserError as error:
        _refuse(str(error))
    except Terminated as ended:
        print(ended, flush=True)
        sys.exit(EXIT_CODE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        said = error.format_message().rstrip(".")  # empty where a group without a command has shown its help
        _refuse(f"{said}; see 'rlhf {words[0]} --help'" if said else "")
    except Exception as error:
        store, where = full_store(error), where_full(error)
        if store is None and where is None:
            raise
        _refuse(store or f"no room left on the disk ({where}); free some, and run the same command")


def _require_command(word: str) -> None:
    known = [*STAGES, *OTHER_COMMANDS]
    if word not in known and not word.startswith("-"):
        raise ConfigError(f"'{word}': unknown stage{suggestion(word, known)}")


def _refuse(message: str) -> NoReturn:
    """One line per problem on stderr, each with the command's name before it."""
    sys.stdout.flush()
    for line in redacted(message).splitlines():
        print(f"rlhf: {line}", file=sys.stderr)
    sys.exit(USER_ERROR)


def _quieten_engines() -> None:
    """Quiet engines: their banners and bars are not this command's output."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TQDM_DISABLE", "1")
