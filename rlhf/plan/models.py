"""Facts of well-known models, for configs that name them by their hub name. A config.json that lies here wins.

Source of every row: the `config.json` that the model's authors publish beside its weights on the hub, as of 2024
and 2025. The number of parameters that follows is checked in tests against a model built from the same sizes.
"""

from __future__ import annotations

from functools import cache

from rlhf.config import suggestion
from rlhf.errors import ConfigError
from rlhf.plan.architecture import Architecture

_QWEN_VOCABULARY = 151_936
_LLAMA_VOCABULARY = 128_256


def _llama(name: str, hidden: int, layers: int, heads: int, intermediate: int, tied: bool = False) -> Architecture:
    width = 64 if hidden == 2048 else 128
    return Architecture(
        name, hidden, layers, heads, kv_heads=8, head_dim=width, intermediate=intermediate, vocab=_LLAMA_VOCABULARY,
        tied=tied, context=131_072 if name.startswith("Llama-3.") else 8192,
    )


def _qwen(
    name: str, hidden: int, layers: int, heads: int, kv_heads: int, intermediate: int, tied: bool, vocab: int = 152_064
) -> Architecture:
    return Architecture(
        name, hidden, layers, heads, kv_heads, hidden // heads, intermediate, vocab, tied, bias=True, context=32_768
    )


TABLE: dict[str, Architecture] = {
    "meta-llama/Llama-2-7b-hf": Architecture(
        "Llama-2-7B", 4096, 32, 32, 32, 128, 11_008, 32_000, tied=False, context=4096
    ),
    "meta-llama/Meta-Llama-3-8B": _llama("Llama-3-8B", 4096, 32, 32, 14_336),
    "meta-llama/Meta-Llama-3-70B": _llama("Llama-3-70B", 8192, 80, 64, 28_672),
    "meta-llama/Llama-3.1-8B": _llama("Llama-3.1-8B", 4096, 32, 32, 14_336),
    "meta-llama/Llama-3.1-70B": _llama("Llama-3.1-70B", 8192, 80, 64, 28_672),
    "meta-llama/Llama-3.2-1B": _llama("Llama-3.2-1B", 2048, 16, 32, 8192, tied=True),
    "meta-llama/Llama-3.2-3B": _llama("Llama-3.2-3B", 3072, 28, 24, 8192, tied=True),
    "Qwen/Qwen2.5-0.5B": _qwen("Qwen2.5-0.5B", 896, 24, 14, 2, 4864, tied=True, vocab=_QWEN_VOCABULARY),
    "Qwen/Qwen2.5-1.5B": _qwen("Qwen2.5-1.5B", 1536, 28, 12, 2, 8960, tied=True, vocab=_QWEN_VOCABULARY),
    "Qwen/Qwen2.5-3B": _qwen("Qwen2.5-3B", 2048, 36, 16, 2, 11_008, tied=True, vocab=_QWEN_VOCABULARY),
    "Qwen/Qwen2.5-7B": _qwen("Qwen2.5-7B", 3584, 28, 28, 4, 18_944, tied=False),
    "Qwen/Qwen2.5-14B": _qwen("Qwen2.5-14B", 5120, 48, 40, 8, 13_824, tied=False),
    "Qwen/Qwen2.5-32B": _qwen("Qwen2.5-32B", 5120, 64, 40, 8, 27_648, tied=False),
    "Qwen/Qwen2.5-72B": _qwen("Qwen2.5-72B", 8192, 80, 64, 8, 29_568, tied=False),
}
_TUNED = ("-instruct", "-chat", "-base", "-it", "-hf", "-sft", "-reward", "-ppo", "-grpo")
_SHORT = {"7b-like": "Llama-2-7B", "8b-like": "Llama-3-8B", "70b-like": "Llama-3-70B"}


def find(name: str) -> Architecture | None:
    """The facts of a model by hub name or short name (`Llama-3-8B`); None when it is not in the table."""
    plain, known = _plain(_SHORT.get(name.lower(), name)), _by_plain_name()
    return known.get(plain) or known.get(plain.rpartition("/")[2])


def require(name: str, key: str) -> Architecture:
    """As `find`; raises ConfigError that names `key` when the table has no such model."""
    found = find(name)
    if found is None:
        near = suggestion(name.rpartition("/")[2], [each.name for each in TABLE.values()])
        others = "" if key == "--model" else ", or --model NAME for the sizes of what is not there yet"
        raise ConfigError(
            f"{key}: the sizes of '{name}' are not known here{near}; give a directory with config.json{others}"
        )
    return found


@cache
def _by_plain_name() -> dict[str, Architecture]:
    """The table by every name that a model goes by."""
    names = ((each, value) for key, value in TABLE.items() for each in (key, key.rpartition("/")[2], value.name))
    return {_plain(each): value for each, value in names}


def _plain(name: str) -> str:
    """Without the endings that mark a tuned model of the same sizes."""
    name = name.lower()
    for ending in _TUNED:
        name = name.removesuffix(ending)
    return name
