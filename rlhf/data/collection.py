"""Gathers real data out of many files: reads, cleans, drops, splits, weighs and shuffles.

Everything is held in memory: the sets are meant to be megabytes to a few gigabytes. The result is a function of
the files, the rules and the seed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from random import Random
from typing import Generic, TypeVar

from rlhf.data.cleaning import clean_text, documents, fingerprint, split_of, weigh
from rlhf.data.quarantine import Quarantine
from rlhf.data.readers import Record, is_plain_text, read_records
from rlhf.data.schemas import (
    InstructionRecord,
    Message,
    PreferenceRecord,
    PromptRecord,
    TextRecord,
    instruction_record,
    preference_record,
    prompt_of,
    text_record,
)
from rlhf.errors import DataError

Item = TypeVar("Item", TextRecord, InstructionRecord, PreferenceRecord)


@dataclass(frozen=True)
class Source:
    """Files of one kind and language; each record that goes to training is written `weight` times."""

    files: Sequence[str]
    lang: str
    weight: float = 1.0
    max_records: int | None = None


@dataclass(frozen=True)
class Rules:
    """What is left out (lengths in characters, inclusive), the shares of the splits, and the seed."""

    document_size: int
    min_document: int
    max_prompt: int
    max_response: int
    validation: float
    heldout: float
    seed: int


@dataclass
class Splits(Generic[Item]):
    """Records per split, and how many were left out for which reason."""

    train: list[Item] = field(default_factory=list)
    validation: list[Item] = field(default_factory=list)
    heldout: list[Item] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def collect_text(sources: Sequence[Source], rules: Rules, quarantine: Quarantine) -> Splits[TextRecord]:
    """Documents; nothing is held out. Long ones are cut, and the lines of plain text are joined."""

    def read(source: Source) -> Iterator[TextRecord]:
        for file in source.files:
            texts = (clean_text(item.text) for item in _records(file, text_record, quarantine))
            for text in documents(texts, rules.document_size, join=is_plain_text(file)):
                yield TextRecord(text, source.lang)

    def problem(item: TextRecord) -> str | None:
        return None if len(item.text) >= rules.min_document else "too_short"

    return _collect(sources, rules, 0.0, quarantine, read, problem, lambda item: item.text, lambda item: item.text)


def collect_instructions(sources: Sequence[Source], rules: Rules, quarantine: Quarantine) -> Splits[InstructionRecord]:
    """Conversations; those that open alike go to the same split."""

    def read(source: Source) -> Iterator[InstructionRecord]:
        for file in source.files:
            for item in _records(file, instruction_record, quarantine):
                yield InstructionRecord(_clean(item.messages), source.lang)

    def problem(item: InstructionRecord) -> str | None:
        return _misfit(prompt_of(item.messages), [item.messages[-1]["content"]], rules)

    def opening(item: InstructionRecord) -> str:
        return flat(item.messages[:1])

    return _collect(sources, rules, rules.heldout, quarantine, read, problem, opening, lambda item: flat(item.messages))


def collect_preferences(sources: Sequence[Source], rules: Rules, quarantine: Quarantine) -> Splits[PreferenceRecord]:
    """Pairs; those that open alike go to the same split, and nothing is held out."""

    def read(source: Source) -> Iterator[PreferenceRecord]:
        for file in source.files:
            for pair in _records(file, preference_record, quarantine):
                chosen, rejected = clean_text(pair.chosen), clean_text(pair.rejected)
                yield PreferenceRecord(_clean(pair.prompt), chosen, rejected, source.lang)

    def problem(item: PreferenceRecord) -> str | None:
        same = "no_difference" if item.chosen == item.rejected else None
        return same or _misfit(item.prompt, [item.chosen, item.rejected], rules)

    def identity(item: PreferenceRecord) -> str:
        return "\x00".join((flat(item.prompt), item.chosen, item.rejected))

    return _collect(sources, rules, 0.0, quarantine, read, problem, lambda item: flat(item.prompt[:1]), identity)


def prompts_from(items: Iterable[InstructionRecord], limit: int | None) -> list[PromptRecord]:
    """The prompts of conversations, each once, at most `limit`."""
    found: dict[str, PromptRecord] = {}
    for item in items:
        if len(found) == limit:
            break
        messages = prompt_of(item.messages)
        name = f"{item.lang}-{fingerprint(flat(messages)).hex()[:12]}"
        found.setdefault(name, PromptRecord(name, messages, item.lang, None))
    return list(found.values())


def flat(messages: Sequence[Message]) -> str:
    """Turns as one text that is equal for equal turns."""
    return "\x00".join(f"{message['role']}\x00{message['content']}" for message in messages)


def _collect(
    sources: Sequence[Source],
    rules: Rules,
    heldout: float,
    quarantine: Quarantine,
    read: Callable[[Source], Iterator[Item]],
    problem: Callable[[Item], str | None],
    split_key: Callable[[Item], str],
    identity: Callable[[Item], str],
) -> Splits[Item]:
    splits: Splits[Item] = Splits()
    seen: set[bytes] = set()
    for index, source in enumerate(sources):
        train: list[Item] = []
        places = {"train": train, "validation": splits.validation, "heldout": splits.heldout}
        for item in islice(read(source), source.max_records):
            mark = fingerprint(identity(item))
            reason = problem(item) or ("duplicate" if mark in seen else None)
            if reason:
                splits.dropped[reason] += 1
                continue
            seen.add(mark)
            places[split_of(split_key(item), rules.seed, rules.validation, heldout)].append(item)
        quarantine.check()
        splits.train += weigh(train, source.weight, Random(f"weight {rules.seed} {index}"))
    Random(f"order {rules.seed}").shuffle(splits.train)
    return splits


def _records(
    file: str, record_of: Callable[[Record, str], Item], quarantine: Quarantine
) -> Iterator[Item]:
    """The records of a file; those that are none go to quarantine."""
    reading = quarantine.begin(file)
    for line, raw in read_records(file, reading.add):
        try:
            found = record_of(raw, f"{file}:{line}")
        except DataError as error:
            reading.add(error, raw)
            continue
        reading.good += 1
        yield found
    if not reading.good and not reading.bad:
        raise DataError(f"{file}: holds no records; give a file with at least one")


def _clean(messages: Sequence[Message]) -> list[Message]:
    return [{"role": message["role"], "content": clean_text(message["content"])} for message in messages]


def _misfit(prompt: Sequence[Message], responses: Sequence[str], rules: Rules) -> str | None:
    """Why a prompt with its responses is left out, or None."""
    turns = [len(message["content"]) for message in prompt]
    answers = [len(response) for response in responses]
    if min([*turns, *answers]) == 0:
        return "empty"
    return "too_long" if sum(turns) > rules.max_prompt or max(answers) > rules.max_response else None
