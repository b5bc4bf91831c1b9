"""Writes the small world: pretraining text, demonstrations of mixed quality, and prompts.

Train, validation and held-out lists are told apart by a hash of the items alone: a held-out list, in that order
and language, is asked about nowhere in training, in no words and by no family.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import cycle, islice, product
from pathlib import Path
from random import Random
from typing import Any, Literal

from pydantic import Field

from rlhf.config import Config
from rlhf.data.writing import write_jsonl
from rlhf.errors import DataError
from rlhf.tasks import lexicon, wordings
from rlhf.tasks.checker import correct_answer, gold_score
from rlhf.tasks.families import FAMILIES, Material, draw_items, mistake

Split = Literal["train", "validation", "heldout"]
# Of twenty buckets: digits have few lists (720), and the held-out prompts need a third of the fifth that they get.
_BUCKETS: tuple[Split, ...] = ("heldout",) * 4 + ("validation",) + ("train",) * 15
_TASKS_PER_TEXT = 4
_TRIES_PER_PROMPT = 10


class WorldConfig(Config):
    """How much of each kind of record is written, and how good the demonstrations are."""

    text_train: int = Field(8_000, gt=0, description="pretraining documents")
    text_validation: int = Field(200, gt=0, description="pretraining documents held back")
    sft_train: int = Field(40_000, gt=0, description="demonstrations")
    sft_validation: int = Field(400, gt=0, description="demonstrations held back")
    prompts_train: int = Field(6_000, gt=0, description="prompts for pairs and PPO")
    prompts_heldout: int = Field(560, gt=0, description="prompts for evaluation alone")
    right_fraction: float = Field(0.55, ge=0, le=1, description="share of text and demonstrations with right answers")


def write_world(config: WorldConfig, seed: int, directory: Path) -> dict[str, int]:
    """Write the six JSONL files of the `data` stage; returns records per file. Equal seeds write equal bytes."""
    parts: dict[str, Iterable[Mapping[str, Any]]] = {
        "text_train": texts(config.text_train, "train", config.right_fraction, seed),
        "text_validation": texts(config.text_validation, "validation", config.right_fraction, seed),
        "sft_train": demonstrations(config.sft_train, "train", config.right_fraction, seed),
        "sft_validation": demonstrations(config.sft_validation, "validation", config.right_fraction, seed),
        "prompts_train": prompts(config.prompts_train, "train", seed),
        "prompts_heldout": prompts(config.prompts_heldout, "heldout", seed),
    }
    return {name: write_jsonl(directory / f"{name}.jsonl", records) for name, records in parts.items()}


def split_of(items: list[str]) -> Split:
    """Which split a list of items belongs to, for ever: 75% train, 5% validation, 20% held out."""
    value = hashlib.blake2b("\n".join(items).encode(), digest_size=8).digest()
    return _BUCKETS[int.from_bytes(value, "big") % len(_BUCKETS)]


def items_of(split: Split, material: Material, lang: str, random: Random) -> list[str]:
    """Fresh items of a split."""
    while True:
        items = draw_items(random, material, lang)
        if split_of(items) == split:
            return items


def tasks(
    split: Split, random: Random, languages: Sequence[str] = lexicon.LANGUAGES
) -> Iterator[dict[str, Any]]:
    """An endless stream of tasks of a split, families and languages in turn."""
    for family, lang in cycle(product(FAMILIES, languages)):
        yield {"family": family, "lang": lang, "items": items_of(split, FAMILIES[family].material, lang, random)}


def mixed_answer(task: Mapping[str, Any], right_fraction: float, random: Random) -> str:
    """The right answer with probability `right_fraction`, else one with a realistic mistake that is really wrong."""
    if random.random() < right_fraction:
        return correct_answer(task)
    family, lang = task["family"], task["lang"]
    while True:
        answer = wordings.write_items(mistake(random, FAMILIES[family], task["items"], lang), family)
        if gold_score(task, answer) == 0.0:
            return answer


def texts(count: int, split: Split, right_fraction: float, seed: int) -> Iterator[dict[str, str]]:
    """Pretraining documents: a few questions of one language, each with its answer on the next line; no chat format."""
    random = _random(seed, "text", split)
    asked_of = {lang: tasks(split, random, (lang,)) for lang in lexicon.LANGUAGES}
    for lang in islice(cycle(lexicon.LANGUAGES), count):
        asked = islice(asked_of[lang], _TASKS_PER_TEXT)
        lines = [f"{_ask(task, random)}\n{mixed_answer(task, right_fraction, random)}" for task in asked]
        yield {"text": "\n\n".join(lines), "lang": lang}


def demonstrations(count: int, split: Split, right_fraction: float, seed: int) -> Iterator[dict[str, Any]]:
    """Instructions with answers of mixed quality."""
    random = _random(seed, "sft", split)
    for task in islice(tasks(split, random), count):
        turns = [
            {"role": "user", "content": _ask(task, random)},
            {"role": "assistant", "content": mixed_answer(task, right_fraction, random)},
        ]
        yield {"messages": turns, "lang": task["lang"]}


def prompts(count: int, split: Split, seed: int) -> Iterator[dict[str, Any]]:
    """Prompts without answers, each asked once, with the task that the gold checker needs.

    Raises DataError when the split does not hold so many different ones.
    """
    random = _random(seed, "prompts", split)
    asked: set[str] = set()
    for task in islice(tasks(split, random), _TRIES_PER_PROMPT * count):
        if len(asked) == count:
            return
        text = _ask(task, random)
        if text not in asked:
            asked.add(text)
            turns = [{"role": "user", "content": text}]
            yield {"id": f"{split}-{len(asked):05d}", "prompt": turns, "lang": task["lang"], "task": task}
    if len(asked) < count:
        raise DataError(f"{count} {split} prompts: the world holds about {len(asked)} different ones; ask for fewer")


def _ask(task: Mapping[str, Any], random: Random) -> str:
    return wordings.question(task, random.randrange(2))


def _random(seed: int, purpose: str, split: str) -> Random:
    """Each file has its own stream of randomness, so that one file's size does not change another."""
    return Random(f"{seed}/{purpose}/{split}")
