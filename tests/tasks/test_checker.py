"""The gold checker against answers written by hand, right and wrong, for every family in both languages."""

from __future__ import annotations

import pytest

from rlhf.errors import DataError
from rlhf.tasks import correct_answer, gold_score
from rlhf.tasks.families import FAMILIES

RIGHT = {
    ("repeat", "en"): (["cat", "bus", "pear"], "cat\nbus\npear"),
    ("repeat", "zh"): (["猫", "公交", "梨"], "猫\n公交\n梨"),
    ("reverse", "en"): (["cat", "bus", "pear"], "pear\nbus\ncat"),
    ("reverse", "zh"): (["猫", "公交", "梨"], "梨\n公交\n猫"),
    ("translate", "en"): (["horse", "black", "plane"], "马\n黑色\n飞机"),
    ("translate", "zh"): (["马", "黑色", "飞机"], "horse\nblack\nplane"),
    ("kind", "en"): (["fish", "grape", "red"], "animal\nfruit\ncolour"),
    ("kind", "zh"): (["鱼", "葡萄", "火车"], "动物\n水果\n交通工具"),
    ("next", "en"): (["3", "9", "0"], "401"),
    ("next", "zh"): (["1", "2", "8"], "239"),
    ("nines", "en"): (["3", "9", "0"], "609"),
    ("nines", "zh"): (["1", "2", "8"], "871"),
    ("smallest", "en"): (["3", "9", "5"], "3"),
    ("smallest", "zh"): (["7", "2", "8"], "2"),
}


def task(family: str, lang: str, items: list[str]) -> dict:
    return {"family": family, "lang": lang, "items": items}


def test_every_family_has_a_case_in_both_languages() -> None:
    assert {family for family, _ in RIGHT} == set(FAMILIES)
    assert len(RIGHT) == 2 * len(FAMILIES)


@pytest.mark.parametrize(("family", "lang"), RIGHT)
def test_the_right_answer_scores_one_and_nothing_else_does(family: str, lang: str) -> None:
    items, answer = RIGHT[family, lang]
    asked = task(family, lang, items)
    assert correct_answer(asked) == answer
    assert gold_score(asked, f" {answer}\n") == 1.0
    parts = answer.split("\n") if "\n" in answer else list(answer)
    wrong = ["", answer + "\n" + parts[-1], "The answer is " + answer]
    if len(parts) > 1:
        joint = "\n" if "\n" in answer else ""
        wrong += [joint.join(parts[:-1]), joint.join([parts[1], parts[0], *parts[2:]])]
    assert [gold_score(asked, response) for response in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"family": "sort"}, "task family 'sort': unknown; known here: repeat"),
        ({"lang": "fr"}, "task language 'fr': unknown"),
        ({"items": []}, "none given"),
        ({"items": ["cat", "x"]}, r"\['x'\]; family 'repeat' works on cat"),
    ],
)
def test_a_strange_task_is_refused(change: dict, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        gold_score({**task("repeat", "en", ["cat", "dog", "red"]), **change}, "cat")


def test_a_task_that_lacks_something_is_refused() -> None:
    with pytest.raises(DataError, match="lacks lang, items"):
        gold_score({"family": "repeat"}, "cat")
