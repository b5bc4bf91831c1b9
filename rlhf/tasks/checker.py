"""The gold checker: is a response the right answer, in the right format?

It works from the task alone and knows nothing of any model, so it can measure what a reward model only estimates.
Scores are 1 or 0: every task of this world has exactly one right answer, and half a list is not the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rlhf.errors import DataError
from rlhf.tasks import lexicon
from rlhf.tasks.families import DIGITS, FAMILIES
from rlhf.tasks.wordings import write_items

_KEYS = ("family", "lang", "items")


def is_checkable(task: Mapping[str, Any] | None) -> bool:
    """Whether a prompt's task is one of this world, and not what another reward needs."""
    return task is not None and "family" in task


def correct_answer(task: Mapping[str, Any]) -> str:
    """The one right answer, as its language writes it. Raises DataError for a task that this world does not know."""
    _refuse_unknown(task)
    family, lang = task["family"], task["lang"]
    return write_items(FAMILIES[family].answer(list(task["items"]), lang), family)


def gold_score(task: Mapping[str, Any], response: str) -> float:
    """1.0 when `response` is the right answer and nothing else, else 0.0; white space round it does not count."""
    return float(response.strip() == correct_answer(task))


def require_answerable(task: Mapping[str, Any], place: str) -> None:
    """Raises DataError, with `place`, for a task of this world that has no answer."""
    try:
        correct_answer(task)
    except DataError as error:
        raise DataError(f"{place}: {error}") from None


def _refuse_unknown(task: Mapping[str, Any]) -> None:
    missing = [key for key in _KEYS if key not in task]
    if missing:
        raise DataError(f"task {dict(task)!r}: lacks {', '.join(missing)}; the checker needs {', '.join(_KEYS)}")
    if not isinstance(task["items"], list | tuple) or not all(isinstance(item, str) for item in task["items"]):
        raise DataError(f"task items {task['items']!r}: expected a list of texts")
    if task["family"] not in tuple(FAMILIES):  # of any type, hashable or not
        raise DataError(f"task family '{task['family']}': unknown; known here: {', '.join(FAMILIES)}")
    if task["lang"] not in lexicon.LANGUAGES:
        raise DataError(f"task language '{task['lang']}': unknown; known here: {', '.join(lexicon.LANGUAGES)}")
    known = list(DIGITS) if FAMILIES[task["family"]].material == "digits" else lexicon.words(task["lang"])
    strange = [item for item in task["items"] if item not in known]
    if strange or not task["items"]:
        wrong = strange or "none given"
        raise DataError(f"task items {task['items']}: {wrong}; family '{task['family']}' works on {', '.join(known)}")
