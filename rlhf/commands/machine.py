"""`rlhf doctor` and `rlhf serve-reward`: what a machine lacks for a run, and one that serves a reward model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rlhf.config import suggestion
from rlhf.errors import ConfigError

FAULTS = 1  # something must be mended


def add_machine_commands(app: typer.Typer) -> None:
    """Add `doctor` and `serve-reward`."""
    app.command("doctor")(examine)
    app.command("serve-reward")(serve_reward)


def examine(
    run: Annotated[Path, typer.Argument(help="where runs are to be written")] = Path("runs"),
    online: Annotated[bool, typer.Option("--online", help="also whether the model hub can be reached")] = False,
) -> None:
    """Check this machine for what a run needs, a line each with the remedy; exit code 1 when something is wrong."""
    from rlhf.doctor.checks import findings

    wrong = False
    for finding in findings(run, online):
        typer.echo(str(finding))
        wrong = wrong or finding.level == "FAIL"
    if wrong:
        raise typer.Exit(FAULTS)


def serve_reward(
    model: Annotated[str, typer.Argument(help="directory or hub name of a reward model")],
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8901,
    token_env: Annotated[str | None, typer.Option(help="environment variable with the bearer token to ask for")] = None,
    token_file: Annotated[Path | None, typer.Option(help="or a file with it, such as a mounted secret")] = None,
    precision: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    micro_batch_tokens: Annotated[int, typer.Option(min=1, help="padded tokens of one forward pass")] = 16384,
) -> None:
    """Serve a reward model over HTTP: POST /score, as `reward.parts.NAME: {kind: http}` asks."""
    if precision not in ("float32", "bfloat16"):
        raise ConfigError(f"--precision: '{precision}'{suggestion(precision, ['float32', 'bfloat16'])}")
    from rlhf.rewards.server import serve
    from rlhf.secrets import TokenPlace

    place = TokenPlace(token_env, token_file, ("--token-env", "--token-file"))
    serve(model, host, port, place, precision, micro_batch_tokens)
