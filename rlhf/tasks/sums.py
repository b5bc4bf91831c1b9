"""The data of the worked example of an environment: sums in Chinese and English, answered with and without a tool.

A demonstration either asks the tool and repeats what it says, or guesses and is wrong. A policy that imitates the
mixture is right as often as it asks; reinforcement learning can only make it ask more.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from pydantic import Field

from rlhf.config import Config
from rlhf.data.writing import write_jsonl

_QUESTIONS = {"en": "What is {a} + {b}?", "zh": "{a} 加 {b} 等于多少？"}


class SumsConfig(Config):
    """How many records are written, and how often a demonstration asks the tool."""

    sft_train: int = Field(20_000, gt=0, description="demonstrations; their texts also serve for pretraining")
    sft_validation: int = Field(400, gt=0, description="demonstrations held back")
    prompts_train: int = Field(4_000, gt=0, description="prompts for PPO")
    prompts_heldout: int = Field(560, gt=0, description="prompts for evaluation alone")
    tool_fraction: float = Field(0.5, ge=0, le=1, description="share of demonstrations that ask the tool")


def write_sums(config: SumsConfig, seed: int, directory: Path) -> dict[str, int]:
    """Write the six JSONL files of the `data` stage; returns records per file. Equal seeds write equal bytes."""
    parts: dict[str, Iterable[Mapping[str, Any]]] = {}
    for split, count in (("train", config.sft_train), ("validation", config.sft_validation)):
        parts[f"text_{split}"] = map(_text, demonstrations(split, count, config.tool_fraction, seed))
        parts[f"sft_{split}"] = demonstrations(split, count, config.tool_fraction, seed)
    parts["prompts_train"] = prompts("train", config.prompts_train, seed)
    parts["prompts_heldout"] = prompts("heldout", config.prompts_heldout, seed)
    return {name: write_jsonl(directory / f"{name}.jsonl", records) for name, records in parts.items()}


def demonstrations(split: str, count: int, tool_fraction: float, seed: int) -> Iterator[dict[str, Any]]:
    """Conversations of two or four turns."""
    random = Random(f"{seed}/sums/sft/{split}")
    for lang, a, b in islice(_sums(split, random), count):
        turns = [{"role": "user", "content": _QUESTIONS[lang].format(a=a, b=b)}]
        if random.random() < tool_fraction:
            said = (f"<calc>{a}+{b}</calc>", str(a + b), str(a + b))
        else:
            said = (str(_wrong(a + b, random)),)
        roles = ("assistant", "user", "assistant")
        turns += [{"role": role, "content": content} for role, content in zip(roles, said, strict=False)]
        yield {"messages": turns, "lang": lang}


def prompts(split: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    """Questions with their answers as tasks of the environment."""
    random = Random(f"{seed}/sums/prompts/{split}")
    for number, (lang, a, b) in enumerate(islice(_sums(split, random), count)):
        turns = [{"role": "user", "content": _QUESTIONS[lang].format(a=a, b=b)}]
        named = {"id": f"{split}-{number:05d}", "lang": lang, "source": "sums"}
        yield {**named, "prompt": turns, "task": {"answer": a + b}}


def _sums(split: str, random: Random) -> Iterator[tuple[str, int, int]]:
    """Endless pairs of numbers of a split: every fifth sum, by its numbers, is held out."""
    while True:
        lang, a, b = random.choice(("en", "zh")), random.randrange(10, 100), random.randrange(10, 100)
        if ((7 * a + b) % 5 == 0) == (split == "heldout"):
            yield lang, a, b


def _wrong(right: int, random: Random) -> int:
    return right + random.choice((-1, 1)) * random.randrange(1, 10)


def _text(record: Mapping[str, Any]) -> dict[str, str]:
    return {"text": "\n".join(turn["content"] for turn in record["messages"]), "lang": record["lang"]}
