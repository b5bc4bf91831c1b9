"""The task families: what the right answer to a list of items is, and how people get it wrong.

Every list has three items, and every answer is a list again: the same work at each place of the list, a different
rule for each family. A model of a million parameters learns that in a minute, and can still get every place wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Literal

from rlhf.tasks import lexicon

Material = Literal["words", "digits"]
ITEMS = 3
DIGITS = "0123456789"


@dataclass(frozen=True)
class Family:
    """One kind of task.

    `answer(items, lang)` is the one right answer; `choices(lang)` is what a place of an answer could hold, for a
    slip at that place.
    """

    material: Material
    answer: Callable[[Sequence[str], str], list[str]]
    choices: Callable[[str], list[str]]


def _digits(_lang: str) -> list[str]:
    return list(DIGITS)


FAMILIES: dict[str, Family] = {
    "repeat": Family("words", lambda items, lang: list(items), lexicon.words),
    "reverse": Family("words", lambda items, lang: list(items)[::-1], lexicon.words),
    "translate": Family(
        "words", lambda items, lang: [lexicon.translation(item, lang) for item in items],
        lambda lang: lexicon.words(lexicon.other(lang)),
    ),
    "kind": Family("words", lambda items, lang: [lexicon.kind_of(item, lang) for item in items], lexicon.kinds),
    "next": Family("digits", lambda items, lang: [DIGITS[(int(item) + 1) % 10] for item in items], _digits),
    "nines": Family("digits", lambda items, lang: [str(9 - int(item)) for item in items], _digits),
    "smallest": Family("digits", lambda items, lang: [min(items)], _digits),
}


def draw_items(random: Random, material: Material, lang: str) -> list[str]:
    """Three fresh items: different words of a language, or different digits."""
    return random.sample(DIGITS if material == "digits" else lexicon.words(lang), ITEMS)


def mistake(random: Random, family: Family, items: Sequence[str], lang: str) -> list[str]:
    """An answer with a realistic mistake: an item dropped or doubled, the work not done, or a slip at one place.

    Now and then it happens to be right all the same; the caller looks.
    """
    answer = family.answer(items, lang)
    place = random.randrange(len(answer))
    kind = random.choices(("drop", "double", "undone", "slip"), weights=(3, 3, 3, 1))[0]
    if kind == "drop" and len(answer) > 1:
        del answer[place]
    elif kind == "undone":
        answer = list(items)
    elif kind == "slip":
        answer[place] = random.choice(items if len(answer) == 1 else family.choices(lang))
    else:
        answer.insert(place, answer[place])
    return answer
