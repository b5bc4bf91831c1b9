"""Rewards that a rule decides, and a function of the user's own."""

from __future__ import annotations

import pytest

from rlhf.config import validate
from rlhf.errors import ConfigError
from rlhf.numbers import last_number
from rlhf.ppo.config import RewardConfig
from rlhf.rewards.sample import Failure, RewardSample
from rlhf.rewards.scorers import scorer_of

CHECKED = {"family": "copy", "lang": "en", "items": ["one", "two"]}


def scores(part: dict, *responses: str, task: dict | None = None) -> list[float | Failure]:
    config = validate(RewardConfig, {"parts": {"it": part}})
    samples = [RewardSample(str(k), "?", [], response, task=task) for k, response in enumerate(responses)]
    return scorer_of(config.parts["it"], "reward.parts.it")(samples)


def test_exact_match_leaves_out_white_space_round_both() -> None:
    task = {"answer": " 42\n"}
    assert scores({"kind": "exact_match"}, "42", "\t42 ", "42.", "", task=task) == [1.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("text", "number"),
    [("so 1,234.50 it is", "1234.50"), ("3 or -7", "-7"), ("五加三是8。", "8"), ("no", None), ("", None), ("1e3", "3"),
     ("5-7", "7"), ("x = \u22123", "-3"), ("v1.2 -4", "-4")],
)
def test_the_last_number_of_a_text(text: str, number: str | None) -> None:
    assert (None if last_number(text) is None else str(last_number(text))) == number


def test_numbers_match_by_value() -> None:
    task = {"answer": 12}
    found = scores({"kind": "number_match"}, "3 + 9 = 12.0", "12 or 13", "twelve", task=task)
    assert found == [1.0, 0.0, 0.0]
    assert scores({"kind": "number_match"}, "0.00001", task={"answer": 1e-05}) == [1.0]
    assert scores({"kind": "number_match"}, "10000000000000000", task={"answer": 1e16}) == [1.0]


def test_a_pattern_may_span_lines() -> None:
    part = {"kind": "pattern", "pattern": "<think>.*</think>"}
    assert scores(part, "<think>a\nb</think> c", "<think>") == [1.0, 0.0]


def test_json_is_json() -> None:
    found = scores({"kind": "json"}, '{"a": [1, null]}', "NaN", "{'a': 1}", "", "[" * 100_000)
    assert found == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_what_the_prompt_does_not_say_cannot_be_checked() -> None:
    for kind in ("exact_match", "number_match"):
        (found,) = scores({"kind": kind}, "1")
        assert found == Failure("its prompt has no task.answer")
    found = scores({"kind": "number_match"}, "1", task={"answer": "x"})
    assert found == [Failure("its task.answer 'x' holds no number")]
    found = scores({"kind": "task_checker"}, "1", task={"answer": "1"})
    assert found == [Failure("its prompt has no task of the checker")]


FUNCTIONS = '''
def length(sample):
    return len(sample.response) / 10

def picky(sample):
    if sample.response == "bad":
        raise KeyError("bad")
    return {"none": None, "nan": float("nan"), "text": "1", "yes": True}.get(sample.response, 2)

size = 3
'''


def test_a_function_of_a_file_scores_each_sample_by_itself(tmp_path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FUNCTIONS)
    assert scores({"kind": "function", "file": str(path), "function": "length"}, "abcde", "") == [0.5, 0.0]
    part = {"kind": "function", "file": str(path), "function": "picky"}
    found = scores(part, "x", "bad", "none", "nan", "text", "yes")
    assert [score if isinstance(score, float) else score.reason for score in found] == [
        2.0, "raised KeyError: 'bad'", "answered None, which is no number", "answered nan, which is not finite",
        "answered '1', which is no number", 1.0,
    ]


def test_a_function_of_a_module() -> None:
    with pytest.raises(ConfigError, match="holds no function or class 'nothing'"):
        scores({"kind": "function", "function": "tests.rewards.test_rules:nothing"}, "x")
    assert scores({"kind": "function", "function": "operator:truth"}, "x") == [1.0]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"function": "no.such.module:f"}, r"reward\.parts\.it\.function: module 'no\.such\.module' cannot"),
        ({"file": "FILE", "function": "size"}, r"holds no function or class 'size' \(it holds: length, picky\)"),
        ({"file": "BROKEN", "function": "f"}, r"cannot be imported: SyntaxError"),
        ({"function": "length"}, r"function: 'length' names nothing; write module:name"),
    ],
)
def test_a_function_that_is_not_there_is_named(tmp_path, part: dict, said: str) -> None:
    (tmp_path / "mine.py").write_text(FUNCTIONS)
    (tmp_path / "broken.py").write_text("def f(:")
    files = {"FILE": str(tmp_path / "mine.py"), "BROKEN": str(tmp_path / "broken.py")}
    part = {key: files.get(value, value) for key, value in part.items()}
    with pytest.raises(ConfigError, match=said):
        scores({"kind": "function", **part}, "x")


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"parts": {"a b": {"kind": "json"}}}, "'a b': name a part with letters"),
        ({"parts": {"model": {"kind": "json"}}}, "and not 'model'"),
        ({"parts": {"a": {"kind": "pattern", "pattern": "("}}}, "no regular expression"),
        ({"parts": {"a": {"kind": "http", "url": "ftp://x"}}}, r"parts\.a\.url: string should match"),
        ({"parts": {"a": {"kind": "jsn"}}}, "kind"),
        ({"model": "m", "failures": {"kind": "skip", "max_fraction": 0}}, "max_fraction"),
    ],
)
def test_a_wrong_reward_is_refused(reward: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate(RewardConfig, reward)
