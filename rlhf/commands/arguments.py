"""What most commands take: config files, then overrides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from rlhf.errors import ConfigError

Arguments = Annotated[
    list[str] | None, typer.Argument(help="config files, then key.sub=value overrides", show_default=False)
]


def split_arguments(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Config files and overrides; raises ConfigError for a word that is neither."""
    files = [word for word in arguments if word.endswith((".yaml", ".yml")) and "=" not in word]
    overrides = [word for word in arguments if "=" in word]
    for word in arguments:
        if word not in files and word not in overrides:
            raise ConfigError(f"'{word}': neither a config file (….yaml) nor an override (key.sub=value)")
    return files, overrides
