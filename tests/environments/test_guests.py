"""Environments of the user's own play in a process without our secrets, and one that stands still is ended."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from rlhf.batch import Prompt
from rlhf.config import validate
from rlhf.environments.config import PythonEnvironment
from rlhf.environments.environment import Turn
from rlhf.environments.factory import environments_of
from rlhf.environments.guests import Failed
from rlhf.errors import ConfigError

SOURCE = """
import asyncio, os, signal, time
from rlhf.environments.environment import Turn

class Echo:
    def __init__(self, times=1):
        self.left = times

    async def reset(self, prompt):
        self.prompt = prompt

    async def step(self, response):
        if response == "block":
            time.sleep(600)
        if response == "wait":
            await asyncio.sleep(600)
        if response == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if response == "none":
            return None
        if response == "much":
            return Turn("", "much", True)
        if response.startswith("$"):
            return Turn(os.environ.get(response[1:], "nothing"), 0.0, False)
        self.left -= 1
        return Turn(f"{self.prompt.text} {self.prompt.token_ids} {response} {os.getpid()}", 0.1 + 0.2, self.left == 0)
"""
PROMPT = Prompt("7", (5, 6), "word", messages=({"role": "user", "content": "word"},), task={"answer": [1]})


def play(tmp_path: Path, body: Callable[[Any], Awaitable[None]], hidden: tuple = (), **changes: Any) -> None:
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    settings = {"kind": "python", "file": str(path), "factory": "Echo", **changes}
    environments = environments_of(validate(PythonEnvironment, settings), hidden)
    try:
        asyncio.run(body(environments))
    finally:
        environments.close()


def test_episodes_play_at_once_and_each_keeps_its_own_state(tmp_path: Path) -> None:
    async def body(environments: Any) -> None:
        async with environments.playing() as make:
            episodes = [make() for _ in range(5)]
            await asyncio.gather(*(episode.reset(PROMPT) for episode in episodes))
            waiting = asyncio.ensure_future(episodes[0].step("wait"))  # the others are answered meanwhile
            turns = await asyncio.gather(*(episode.step(f"a{k}") for k, episode in enumerate(episodes[1:])))
            waiting.cancel()
        assert [turn.observation.rsplit(" ", 1)[0] for turn in turns] == [f"word (5, 6) a{k}" for k in range(4)]
        assert {(turn.reward, turn.done) for turn in turns} == {(0.1 + 0.2, False)}
        pids = {turn.observation.rsplit(" ", 1)[1] for turn in turns}
        assert len(pids) == 1 and pids != {str(os.getpid())}
        async with environments.playing() as make:
            episode = make()
            await episode.reset(PROMPT)
            assert not (await episode.step("x")).done and (await episode.step("y")).done

    play(tmp_path, body, options={"times": 2})


def test_secrets_are_not_among_its_variables(tmp_path: Path, monkeypatch) -> None:
    for name in ("HF_TOKEN", "JUDGE", "OTHER_KEY", "PLAIN"):
        monkeypatch.setenv(name, "planted")

    async def body(environments: Any) -> None:
        async with environments.playing() as make:
            episode = make()
            await episode.reset(PROMPT)
            names = ("HF_TOKEN", "JUDGE", "OTHER_KEY", "PLAIN")
            seen = [(await episode.step(f"${name}")).observation for name in names]
        assert seen == ["nothing", "nothing", "planted", "planted"]

    play(tmp_path, body, ("JUDGE",), pass_env=["OTHER_KEY"])


@pytest.mark.parametrize(
    ("response", "said"),
    [
        ("none", "answered None, which is no Turn"), ("much", "answered 'much', which is no number as its reward"),
        ("die", r"gave no answer: its process ended \(signal SIGKILL\)"),
    ],
)
def test_what_goes_wrong_is_said(tmp_path: Path, response: str, said: str) -> None:
    async def body(environments: Any) -> None:
        async with environments.playing() as make:
            episode = make()
            await episode.reset(PROMPT)
            with pytest.raises(Failed, match=said):
                await episode.step(response)
        async with environments.playing() as make:  # and the next ones play
            episode = make()
            await episode.reset(PROMPT)
            assert isinstance(await episode.step("x"), Turn)

    play(tmp_path, body)


def test_a_process_that_stands_still_is_ended_and_replaced(tmp_path: Path) -> None:
    async def body(environments: Any) -> None:
        async with environments.playing() as make:
            first, second = make(), make()
            await asyncio.gather(first.reset(PROMPT), second.reset(PROMPT))
            blocked = asyncio.ensure_future(first.step("block"))
            await asyncio.sleep(0.2)
            asked = asyncio.ensure_future(second.step("x"))
            blocked.cancel()  # as the platform does after timeout_s
            with pytest.raises(Failed, match=r"its process ended \(signal SIGKILL\)"):
                await asked
            with pytest.raises(Failed, match="was not asked: its process has ended"):
                await second.step("x")
        async with environments.playing() as make:
            episode = make()
            await episode.reset(PROMPT)
            assert isinstance(await episode.step("x"), Turn)

    play(tmp_path, body)


def test_a_prompt_that_json_has_no_word_for(tmp_path: Path) -> None:
    async def body(environments: Any) -> None:
        async with environments.playing() as make:
            with pytest.raises(Failed, match="cannot be given to it: Object of type set is not JSON"):
                await make().reset(Prompt("7", (5, 6), task={"answer": {1}}))

    play(tmp_path, body)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"factory": "Nobody"}, r"environment\.factory: .* holds no .* 'Nobody' \(it holds: Turn, Echo\)"),
        ({"options": {"size": 2}}, r"Echo with environment\.options raised TypeError: .*'size'"),
        ({"pass_env": ["NOT_THERE"]}, "pass_env names NOT_THERE, and there is no such environment variable"),
    ],
)
def test_what_cannot_be_had_is_said(tmp_path: Path, changes: dict, said: str) -> None:
    async def nothing(environments: Any) -> None: ...

    with pytest.raises(ConfigError, match=said):
        play(tmp_path, nothing, **changes)
