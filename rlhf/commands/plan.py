"""`rlhf plan`: will a config fit, and how long does a step take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer

from rlhf import config as configs
from rlhf.commands.arguments import Arguments, split_arguments
from rlhf.commands.stages import stage_of
from rlhf.pipeline import PipelineConfig, Stage, jobs

Resolve = Callable[[str], Any]
TRAINED = ("pretrain", "sft", "reward")  # stages beside ppo that hold a model


def add_plan_command(app: typer.Typer, stages: Mapping[str, Stage], resolve: Resolve) -> None:
    """Add `plan`. `stages`: the table of stages; `resolve`: finds what it names."""

    def plan(
        arguments: Arguments = None,
        cluster: Annotated[
            str | None, typer.Option(help="NODESxGPUSxKIND-GIB[+GIB of a node] (16x8xH100-80); default: this one")
        ] = None,
        model: Annotated[str | None, typer.Option(help="sizes for every model: a name, or a directory")] = None,
        method: Annotated[
            str | None, typer.Option(help="with --model alone: full (the default) or lora")
        ] = None,
        prompt_tokens: Annotated[int | None, typer.Option(min=1, help="mean prompt, for times")] = None,
        response_tokens: Annotated[int | None, typer.Option(min=1, help="mean response, for times")] = None,
        layouts: Annotated[
            bool, typer.Option("--layouts", help="list layouts that fit, the fastest first")
        ] = False,
        as_json: Annotated[bool, typer.Option("--json", help="the same as JSON")] = False,
    ) -> None:
        """Say whether a config fits a cluster, how long a step takes, and what to change first."""
        from rlhf.plan.command import Options, answer

        options = Options(cluster, model, method, prompt_tokens, response_tokens, layouts, as_json)
        words = list(arguments or ())
        stage = words.pop(0) if words and words[0] in stages else None
        files, overrides = split_arguments(words)
        raw = configs.read_merged(files, overrides)
        typer.echo(answer(options, lambda: _stages_of(stage, raw, files, stages, resolve)))

    app.command("plan")(plan)


def _stages_of(
    stage: str | None, raw: dict[str, Any], files: Sequence[str], stages: Mapping[str, Stage], resolve: Resolve
) -> list[tuple[str, Any]]:
    """(stage, validated config) of every stage that the files describe; none without files."""
    if not raw:
        return []
    name = stage or stage_of(raw, files, TRAINED, "Say it first: rlhf plan sft FILE")
    if name == "run":
        return [(job.name, job.config) for job in jobs(configs.validate(PipelineConfig, raw), stages, resolve)]
    return [(name, configs.validate(resolve(stages[name].config), raw))]
