"""`rlhf keys` and `rlhf config schema`: what may stand in a config file, for people and for editors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rlhf.config import suggestion
from rlhf.errors import ConfigError
from rlhf.pipeline import PipelineConfig, Stage

StageName = Annotated[str, typer.Argument(help="a stage, or 'run'")]


class ConfigCommands:
    """`stages`: the table of stages; `resolve`: finds what it names."""

    def __init__(self, stages: Mapping[str, Stage], resolve: Callable[[str], Any]) -> None:
        self._stages, self._resolve = stages, resolve

    def keys(self, stage: StageName) -> None:
        """List every config key of a stage with type, default and meaning."""
        from rlhf.keys import describe

        self._require(stage)
        for line in describe(PipelineConfig if stage == "run" else self._model(stage)):
            typer.echo(line)

    def schema(
        self,
        stage: Annotated[str | None, typer.Argument(help="a stage, or 'run'", show_default=False)] = None,
        output: Annotated[
            Path | None, typer.Option(metavar="DIRECTORY", help="write STAGE.json for every stage, and run.json")
        ] = None,
    ) -> None:
        """Print the JSON Schema of a stage's config files, or write those of all, for editors."""
        if stage is None and output is None:
            raise ConfigError("config schema: name a stage or 'run' to print its schema, or give --output DIRECTORY")
        if stage is not None and output is not None:
            raise ConfigError(f"config schema: --output writes those of all stages; leave out {stage} or --output")
        if output is not None:
            self._write(output)
        elif stage is not None:
            self._require(stage)
            typer.echo(self._text(stage), nl=False)

    def _write(self, directory: Path) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            for stage in self._known():
                (directory / f"{stage}.json").write_text(self._text(stage), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--output: {directory}: not writable ({error.strerror}); name another place") from None
        typer.echo(f"{directory}: {', '.join(f'{stage}.json' for stage in self._known())}")

    def _text(self, stage: str) -> str:
        from rlhf.schema import file_schema, pipeline_schema

        if stage == "run":
            schema = pipeline_schema(PipelineConfig, {name: self._model(name) for name in self._stages})
        else:
            schema = file_schema(self._model(stage))
        return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"

    def _model(self, stage: str) -> Any:
        return self._resolve(self._stages[stage].config)

    def _known(self) -> list[str]:
        return [*self._stages, "run"]

    def _require(self, stage: str) -> None:
        if stage not in self._known():
            raise ConfigError(f"'{stage}': unknown stage{suggestion(stage, self._known())}")


def add_config_commands(app: typer.Typer, stages: Mapping[str, Stage], resolve: Callable[[str], Any]) -> None:
    """Add `keys`, and the group `config`."""
    commands = ConfigCommands(stages, resolve)
    group = typer.Typer(add_completion=False, no_args_is_help=True, help="Config files: their JSON Schema.")
    group.callback()(lambda: None)  # keeps a group of one command a group
    group.command("schema")(commands.schema)
    app.command("keys")(commands.keys)
    app.add_typer(group, name="config")
