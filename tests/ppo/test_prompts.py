"""Prompts: read with errors that name file and line, dealt out as a pure function of the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf.batch import Prompt
from rlhf.errors import DataError
from rlhf.ppo.prompts import PromptStream, read_prompts, sampling_seeds


class Characters:
    """A tokenizer of one token per character, and one for the turn that is to be answered."""

    def apply_chat_template(self, messages, add_generation_prompt, tokenize, return_dict) -> list[int]:
        assert add_generation_prompt and tokenize and not return_dict
        return [ord(letter) for message in messages for letter in message["content"]] + [0]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def turn(content: str, role: str = "user") -> dict[str, str]:
    return {"role": role, "content": content}


def test_reads_prompts_with_what_the_data_says_of_them(tmp_path: Path) -> None:
    task = {"kind": "sort", "numbers": [1, 2]}
    path = write(
        tmp_path / "prompts.jsonl",
        {"id": "a7", "prompt": [turn("ab")], "lang": "en", "task": task, "source": "sorting"},
        {"prompt": "请"},
    )
    first, second = read_prompts(path, Characters(), max_tokens=3)
    assert first == Prompt("a7", (97, 98, 0), "ab", "en", task, "sorting", (turn("ab"),))
    assert (second.id, second.token_ids, second.task) == ("2", (ord("请"), 0), None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": [turn("abcd")]}, r"prompts.jsonl:2: the prompt has 5 tokens, and the context leaves room for 4; "),
        ({"promt": "a"}, r"prompts.jsonl:2: missing columns for prompt data.*did you mean 'prompt'"),
        ("{not json", r"prompts.jsonl:2: malformed line"),
        ({"prompt": [turn("a"), turn("b", "assistant")]}, r"prompts.jsonl:2: column 'prompt' must end with a turn of"),
        ({"prompt": []}, r"prompts.jsonl:2: .*must end with a turn of the user"),
        ({"prompt": "a", "source": 3}, r"prompts.jsonl:2: column 'source' holds a int, expected a text or nothing"),
        ({"prompt": 5}, r"prompts.jsonl:2: column 'prompt' holds a int"),
    ],
)
def test_a_bad_record_is_named_by_file_and_line(tmp_path: Path, line, message: str) -> None:
    path = write(tmp_path / "prompts.jsonl", {"prompt": "abc"}, line)
    with pytest.raises(DataError, match=message):
        read_prompts(path, Characters(), max_tokens=4)


def test_a_missing_or_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such data file"):
        read_prompts(tmp_path / "none.jsonl", Characters(), 4)
    with pytest.raises(DataError, match="holds no records"):
        read_prompts(write(tmp_path / "empty.jsonl"), Characters(), 4)


def stream(count: int, per_step: int, seed: int = 0) -> PromptStream:
    return PromptStream([Prompt(str(k), (k,)) for k in range(count)], per_step, seed)


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 5), st.lists(st.integers(0, 40), max_size=8))
def test_a_batch_is_a_pure_function_of_seed_and_step(count: int, per_step: int, seed: int, before: list[int]) -> None:
    used = stream(count, per_step, seed)
    for step in before:
        used.batch(step)
    for step in (0, 3, 17):
        assert used.batch(step) == stream(count, per_step, seed).batch(step)


@given(st.integers(1, 12), st.integers(1, 30))
def test_every_epoch_deals_every_prompt_once(count: int, per_step: int) -> None:
    prompts = stream(count, per_step)
    epochs = 3
    steps = -(-count * epochs // per_step)
    dealt = [prompt.id for step in range(steps) for prompt in prompts.batch(step).prompts]
    for epoch in range(epochs):
        assert sorted(dealt[epoch * count : (epoch + 1) * count], key=int) == [str(k) for k in range(count)]


def test_epochs_and_seeds_shuffle_otherwise() -> None:
    prompts = stream(20, 20)
    assert prompts.batch(0).prompts != prompts.batch(1).prompts
    assert prompts.batch(0).prompts != stream(20, 20, seed=1).batch(0).prompts


def test_every_response_has_a_seed_of_its_own_that_torch_takes() -> None:
    seeds = [seed for step in range(50) for seed in sampling_seeds(0, step, 40)]
    assert len(set(seeds)) == len(seeds) and all(0 <= seed < 2**63 for seed in seeds)
    assert sampling_seeds(0, 3, 4) != sampling_seeds(1, 3, 4)
