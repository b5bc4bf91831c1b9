"""The generator: determined by its seed, held-out lists really held out, demonstrations of the stated quality."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from rlhf.errors import DataError
from rlhf.tasks import WorldConfig, correct_answer, gold_score, lexicon, wordings, write_world
from rlhf.tasks import world as worlds
from rlhf.tasks.families import FAMILIES, draw_items, mistake

COUNTS = {
    "text_train": 600, "text_validation": 60, "sft_train": 2_000, "sft_validation": 60,
    "prompts_train": 1_000, "prompts_heldout": 560,
}
SMALL = WorldConfig(**COUNTS)
HAN = re.compile(r"[\u4e00-\u9fff]")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("world")
    write_world(SMALL, seed=3, directory=directory)
    return directory


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_counts_are_those_asked_for(world: Path) -> None:
    assert {name: len(records(world / f"{name}.jsonl")) for name in COUNTS} == COUNTS


def test_equal_seeds_write_equal_bytes_and_others_do_not(world: Path, tmp_path: Path) -> None:
    for name, seed in (("same", 3), ("other", 4)):
        (tmp_path / name).mkdir()
        write_world(SMALL, seed, tmp_path / name)
    for file in world.iterdir():
        assert (tmp_path / "same" / file.name).read_bytes() == file.read_bytes()
        assert (tmp_path / "other" / file.name).read_bytes() != file.read_bytes()


def test_the_size_of_one_file_does_not_change_another(world: Path, tmp_path: Path) -> None:
    write_world(SMALL.model_copy(update={"text_train": 10, "sft_train": 10}), 3, tmp_path)
    for name in ("prompts_train.jsonl", "prompts_heldout.jsonl", "sft_validation.jsonl"):
        assert (tmp_path / name).read_bytes() == (world / name).read_bytes()


def test_heldout_lists_stand_nowhere_in_what_is_trained_on(world: Path) -> None:
    train, heldout = records(world / "prompts_train.jsonl"), records(world / "prompts_heldout.jsonl")
    assert len(heldout) >= 500
    asked = [record["prompt"][0]["content"] for record in train + heldout]
    assert len(set(asked)) == len(asked)
    lists = {wordings.write_items(r["task"]["items"], r["task"]["family"]) for r in heldout}
    read = [record["messages"][0]["content"] for record in records(world / "sft_train.jsonl")]
    read += [record["prompt"][0]["content"] for record in train]
    read += [q for record in records(world / "text_train.jsonl") for q in questions_of(record["text"])]
    seen = {text.partition("\n")[2] for text in read}
    assert len(lists) > 200 and not lists & seen


def questions_of(text: str) -> list[str]:
    """Question and items of every entry of a document, without the answer below them."""
    found = []
    for entry in text.split("\n\n"):
        lines = entry.split("\n")
        items = 1 if lines[1].isdigit() else 3
        found.append("\n".join(lines[: 1 + items]))
    return found


def test_splits_have_their_shares() -> None:
    random = Random(0)
    shares = Counter(worlds.split_of(draw_items(random, "words", "zh")) for _ in range(4_000))
    assert shares["train"] / 4_000 == pytest.approx(0.75, abs=0.03)
    assert shares["heldout"] / 4_000 == pytest.approx(0.20, abs=0.03)


def test_demonstrations_are_right_as_often_as_asked() -> None:
    random = Random(0)
    asked = list(islice(worlds.tasks("train", random), 3_000))
    right = sum(gold_score(task, worlds.mixed_answer(task, 0.55, random)) for task in asked)
    assert right / len(asked) == pytest.approx(0.55, abs=0.03)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("lang", lexicon.LANGUAGES)
def test_mistakes_of_every_family_are_of_several_kinds(family: str, lang: str) -> None:
    random = Random(1)
    items = draw_items(random, FAMILIES[family].material, lang)
    task = {"family": family, "lang": lang, "items": items}
    written = {wordings.write_items(mistake(random, FAMILIES[family], items, lang), family) for _ in range(60)}
    assert len(written - {correct_answer(task)}) >= 2


def test_families_and_languages_are_even(world: Path) -> None:
    counts = Counter((r["task"]["family"], r["lang"]) for r in records(world / "prompts_heldout.jsonl"))
    assert set(counts) == {(family, lang) for family in FAMILIES for lang in lexicon.LANGUAGES}
    assert max(counts.values()) < 2 * min(counts.values())


def test_chinese_tasks_are_in_chinese(world: Path) -> None:
    for record in records(world / "prompts_train.jsonl"):
        question = record["prompt"][0]["content"].split("\n")[0]
        assert bool(HAN.search(question)) == (record["lang"] == "zh"), question


def test_every_word_has_a_translation_and_a_kind() -> None:
    for lang in lexicon.LANGUAGES:
        for word in lexicon.words(lang):
            there = lexicon.translation(word, lang)
            assert lexicon.translation(there, lexicon.other(lang)) == word
            assert lexicon.kind_of(word, lang) in lexicon.kinds(lang)


def test_more_prompts_than_the_world_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the world holds about"):
        write_world(SMALL.model_copy(update={"prompts_heldout": 30_000}), 0, tmp_path)
