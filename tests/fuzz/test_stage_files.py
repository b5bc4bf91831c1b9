"""Generated files as the inputs of every stage that reads records: read to the end, or refused in one sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from tests.fuzz.entry import command, require_one_sentence, without_ray
from tests.fuzz.generated import files

EXAMPLES = 100  # of each; `rlhf data` gets 2,000 in test_data_files.py
SMALL = {"batch_size": 1, "micro_batch_size": 1, "workers": {"count": 1}}


def stages(models: Any) -> dict[str, tuple[str, Callable[[str], dict[str, Any]]]]:
    """Name → kind of record, and the config of a stage that reads the file."""
    tied, reward, prompts = str(models.tied), str(models.reward), str(models.prompts)
    ppo = {
        "steps": 1, "policy": {"model": tied}, "reference": {"model": tied}, "critic": {"model": reward},
        "reward": {"model": reward}, "rollout": {"prompts_per_step": 1, "max_new_tokens": 8},
    }

    def trained(file: str) -> dict[str, Any]:
        return {"train": [file], "validation": [file], "training": SMALL}

    def evaluated(**more: Any) -> dict[str, Any]:
        return {"models": {"sft": tied}, "prompts": prompts, "sampler": {"max_new_tokens": 8}, **more}

    ptx = {"block_length": 8, "blocks_per_step": 1, "coef": 1.0}
    return {
        "tokenizer": ("text", lambda file: {"train_files": [file], "vocab_size": 300}),
        "pretrain": ("text", lambda file: {"tokenizer": tied, "block_length": 8, **trained(file)}),
        "sft": ("instructions", lambda file: {"model": tied, **trained(file)}),
        "reward": ("preferences", lambda file: {"model": tied, **trained(file)}),
        "pairs": ("tasks", lambda file: {"model": tied, "prompts": file, "sampler": {"max_new_tokens": 8}}),
        "ppo": ("prompts", lambda file: {**ppo, "prompts": file}),
        "ppo ptx": ("text", lambda file: {**ppo, "prompts": prompts, "ptx": {"texts": [file], **ptx}}),
        "evaluate": ("prompts", lambda file: evaluated(prompts=file)),
        "evaluate texts": ("text", lambda file: evaluated(texts=[file])),
    }


NAMES = ("tokenizer", "pretrain", "sft", "reward", "pairs", "ppo", "ppo ptx", "evaluate", "evaluate texts")


@pytest.fixture(autouse=True, scope="module")
def no_ray() -> Iterator[None]:
    with without_ray():
        yield


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_any_file_is_read_or_refused_in_one_sentence(name: str, tiny_models: Any, tmp_path: Path) -> None:
    kind, config_of = stages(tiny_models)[name]
    ends = {0: 0, 2: 0}

    @settings(max_examples=EXAMPLES)
    @given(files((kind, kind, kind, "text", "tasks"), good=40))
    def one(file: tuple[str, str, bytes]) -> None:
        _, file_name, content = file
        path = tmp_path / file_name
        path.write_bytes(content)
        code, lines = command(name.split()[0], {**config_of(str(path)), "output": str(tmp_path / "out")}, tmp_path)
        require_one_sentence(code, lines)
        if code:
            assert {entry.name for entry in tmp_path.iterdir()} <= {file_name, "config.yaml", "out.work"}
        ends[code] += 1
        for left in (path, tmp_path / "out", tmp_path / "out.work"):
            left.unlink() if left.is_file() else shutil.rmtree(left, ignore_errors=True)

    one()
    assert min(ends.values()) > 0, ends
