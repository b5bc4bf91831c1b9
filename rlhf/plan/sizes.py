"""How models of a config come by their sizes: `--model`, what an earlier stage will make, config.json, the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlhf.errors import ConfigError
from rlhf.models.loading import NewModelConfig
from rlhf.plan.architecture import Architecture
from rlhf.plan.models import require

_KEYS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")


@dataclass
class Sizes:
    """Where to look: `override` wins; `made` are the models of earlier stages of a pipeline, by directory."""

    override: Architecture | None = None
    made: dict[Path, Architecture] = field(default_factory=dict)
    vocabularies: dict[Path, int] = field(default_factory=dict)  # tokenizers of earlier stages

    def of(self, value: str, key: str) -> Architecture:
        """The sizes of the model that a config names under `key`. Raises ConfigError when nobody knows them."""
        if self.override is not None:
            return self.override
        made = self.made.get(Path(value).absolute())
        if made is not None:
            return made
        if Path(value).is_dir():
            return from_directory(Path(value), key)
        return require(value, key)

    def new(self, config: NewModelConfig, tokenizer: str) -> Architecture:
        """A model that starts from random weights; it fits its tokenizer."""
        if self.override is not None:
            return self.override
        vocabulary = self.vocabularies.get(Path(tokenizer).absolute()) or _vocabulary(Path(tokenizer))
        return Architecture(
            "new model", config.hidden_size, config.layers, config.heads, config.kv_heads,
            config.hidden_size // config.heads, config.intermediate_size, vocabulary, config.tie_embeddings, bias=True,
            context=config.max_positions,
        )


def sizes_by(name: str | None) -> Sizes:
    """`--model`: a directory with config.json, or a name of the table; it goes for every model of a config."""
    if name is None:
        return Sizes()
    return Sizes(from_directory(Path(name), "--model") if Path(name).is_dir() else require(name, "--model"))


def from_directory(directory: Path, key: str = "model") -> Architecture:
    """The sizes that a directory's config.json names. Raises ConfigError when it does not, or is no plain decoder."""
    path = directory / "config.json"
    try:
        return from_transformers(json.loads(path.read_text(encoding="utf-8")), directory.name)
    except FileNotFoundError:
        raise ConfigError(f"{key}: {directory} has no config.json; give a transformers directory") from None
    except (ValueError, KeyError) as error:
        raise ConfigError(f"{key}: {path} does not describe a plain decoder ({error}); give --model NAME") from None


def from_transformers(content: Mapping[str, Any], name: str) -> Architecture:
    """A transformers config as a mapping. Raises KeyError for a missing size, ValueError for one that is none and for
    a mixture of experts."""
    content = {**content, **content.get("text_config", {})}
    if content.get("num_experts") or content.get("num_local_experts"):
        raise ValueError("a mixture of experts is not planned")
    hidden, layers, heads, wide, vocabulary = (_size(content, key) for key in _KEYS)
    kind = content.get("model_type", "")
    endings = content.get("architectures") or []
    return Architecture(
        name, hidden, layers, heads, int(content.get("num_key_value_heads") or heads),
        int(content.get("head_dim") or hidden // heads), wide, vocabulary, bool(content.get("tie_word_embeddings")),
        bias=kind == "qwen2" or bool(content.get("attention_bias")), norms=kind == "qwen3",
        context=int(content.get("max_position_embeddings") or 0),
        output=not any(each.endswith("ForSequenceClassification") for each in endings),
    )


def _size(content: Mapping[str, Any], key: str) -> int:
    value = content[key]
    if not isinstance(value, int) or value < 1:
        raise ValueError(f"{key} is {value!r:.40}, and no positive whole number")
    return value


def _vocabulary(tokenizer: Path) -> int:
    """Tokens of a tokenizer that lies here."""
    path = tokenizer / "tokenizer.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        added = {each["content"] for each in content.get("added_tokens", [])}
        return len(added | set(content["model"]["vocab"]))
    except (OSError, ValueError, KeyError, TypeError):
        raise ConfigError(f"tokenizer: {path} names no vocabulary; give --model NAME") from None
