"""How tasks are put into words: a question, then the list below it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rlhf.tasks.families import FAMILIES

QUESTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "en": {
        "repeat": ("Repeat these words:", "Copy this list:"),
        "reverse": ("Say this list backwards:", "Reverse these words:"),
        "translate": ("Translate into Chinese:", "Write these words in Chinese:"),
        "kind": ("Name the kind of each word:", "What kind is each word?"),
        "next": ("Add one to each digit:", "Write the digit after each one:"),
        "nines": ("Subtract each digit from nine:", "How far is each digit from nine?"),
        "smallest": ("Find the smallest digit:", "Which digit is the smallest?"),
    },
    "zh": {
        "repeat": ("照样写出这些词:", "请重复这些词:"),
        "reverse": ("请倒序写出:", "把这些词倒过来写:"),
        "translate": ("翻译成英文:", "用英文写出这些词:"),
        "kind": ("写出每个词的类别:", "每个词是哪一类?"),
        "next": ("每个数字加一:", "写出每个数字的后一个:"),
        "nines": ("用九减去每个数字:", "每个数字离九有多远?"),
        "smallest": ("找出最小的数字:", "哪个数字最小?"),
    },
}


def write_items(items: Sequence[str], family: str) -> str:
    """A list as it is written in either language: digits side by side, words one to a line.

    A line's start, unlike a comma or a space, never becomes part of a word's first token, so a word is the same
    token wherever it stands.
    """
    return ("" if FAMILIES[family].material == "digits" else "\n").join(items)


def question(task: Mapping[str, Any], wording: int) -> str:
    """The task as an instruction in its first or second wording."""
    family, lang = task["family"], task["lang"]
    return f"{QUESTIONS[lang][family][wording]}\n{write_items(task['items'], family)}"
