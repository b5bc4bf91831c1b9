"""Which stage a config is for, where the command line does not say it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError


def stage_of(raw: Mapping[str, Any], files: Sequence[str], named: Collection[str], remedy: str) -> str:
    """The stage of a merged config, `run` for a pipeline. Several stages have the same keys (SFT and reward model):
    there the first file decides, whose name begins with one of `named`. `remedy`: how to say it."""
    if "stages" in raw:
        return "run"
    if "policy" in raw:
        return "ppo"
    if "block_length" in raw or (isinstance(raw.get("model"), Mapping) and "kind" in raw["model"]):
        return "pretrain"
    first = Path(files[0]).stem.split("_")[0] if files else ""
    if first in named:
        return first
    raise ConfigError(f"{files[0] if files else 'the config'}: which stage is it for? {remedy}")
