"""The worked example of an environment: what its tool computes and what it pays."""

from __future__ import annotations

import asyncio

import pytest

from rlhf.batch import Prompt
from rlhf.environments.calculator import CalculatorEpisode, calculate
from rlhf.environments.environment import Turn
from rlhf.errors import DataError


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("12+7", "19"), (" 3 * (4 - 9) ", "-15"), ("-2", "-2"), ("1/2", "error"), ("2**99", "error"), ("", "error"),
        ("__import__('os')", "error"), ("1.5+1", "error"), ("True+1", "error"), ("(" * 500, "error"),
        ("1" * 65, "error"),
        ("+".join("1" * 500), "error"),
    ],
)
def test_the_tool_knows_whole_numbers_alone(expression: str, value: str) -> None:
    assert calculate(expression) == value


def test_an_episode_uses_the_tool_and_answers() -> None:
    async def play(*responses: str) -> list[Turn]:
        episode = CalculatorEpisode()
        await episode.reset(Prompt("p", (1,), task={"answer": 19}))
        return [await episode.step(response) for response in responses]

    asked = asyncio.run(play("I ask. <calc>12+7</calc> \n", "It is 19."))
    assert asked == [Turn("19", 0.0, False), Turn("", 1.0, True)]
    assert asyncio.run(play("20")) == [Turn("", 0.0, True)]
    assert asyncio.run(play("<calc>12+7</calc> is 19")) == [Turn("", 1.0, True)]  # a call stands at the end
    assert asyncio.run(play("none")) == [Turn("", 0.0, True)]


def test_a_prompt_without_an_answer_is_named() -> None:
    with pytest.raises(DataError, match=r"environment calculator: prompt p has no number as task\.answer"):
        asyncio.run(CalculatorEpisode().reset(Prompt("p", (1,))))
