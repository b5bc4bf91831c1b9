"""The data of the calculator: what is asked, what demonstrations say, and what is held out."""

from __future__ import annotations

import json
import re
from pathlib import Path

from rlhf.environments.calculator import calculate
from rlhf.tasks import SumsConfig, write_sums

CONFIG = SumsConfig(sft_train=600, sft_validation=20, prompts_train=300, prompts_heldout=100, tool_fraction=0.4)


def written(directory: Path, seed: int = 0) -> dict[str, list[dict]]:
    directory.mkdir()
    counts = write_sums(CONFIG, seed, directory)
    files = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in directory.glob("*.jsonl")
    }
    assert counts == {name: len(rows) for name, rows in files.items()}
    return files


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r"\d+", text))


def test_demonstrations_ask_the_tool_and_are_right_or_guess_and_are_wrong(tmp_path: Path) -> None:
    rows = written(tmp_path / "data")["sft_train"]
    asking = [row["messages"] for row in rows if len(row["messages"]) == 4]
    guessing = [row["messages"] for row in rows if len(row["messages"]) == 2]
    assert len(asking) + len(guessing) == len(rows) and 0.3 < len(asking) / len(rows) < 0.5
    for question, call, value, answer in asking:
        a, b = numbers(question["content"])
        assert call["content"] == f"<calc>{a}+{b}</calc>"
        assert value["content"] == answer["content"] == str(a + b)
        assert calculate(f"{a}+{b}") == value["content"]
    assert all(sum(numbers(question["content"])) != int(answer["content"]) for question, answer in guessing)
    assert {row["lang"] for row in rows} == {"en", "zh"}


def test_held_out_sums_are_asked_nowhere_else(tmp_path: Path) -> None:
    files = written(tmp_path / "data")
    heldout = {numbers(row["prompt"][0]["content"]) for row in files["prompts_heldout"]}
    others = {numbers(row["prompt"][0]["content"]) for row in files["prompts_train"]}
    others |= {numbers(row["messages"][0]["content"]) for row in files["sft_train"] + files["sft_validation"]}
    assert heldout and not heldout & others
    assert all(row["task"] == {"answer": sum(numbers(row["prompt"][0]["content"]))} for row in files["prompts_train"])


def test_equal_seeds_write_equal_bytes(tmp_path: Path) -> None:
    assert written(tmp_path / "one") == written(tmp_path / "two") != written(tmp_path / "other", seed=1)
