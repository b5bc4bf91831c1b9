"""Pretraining text beside PPO: which blocks a step takes, the loss on them, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from rlhf.errors import ConfigError, DataError
from rlhf.metrics import values
from rlhf.ppo.config import PtxConfig
from rlhf.training.ptx import PtxLoss, predicted, read_ptx, write_ptx
from tests.ppo import fakes


def stream(blocks: int, per_step: int) -> PtxLoss:
    return PtxLoss(torch.arange(blocks)[:, None].expand(blocks, 4), per_step, coef=2.0, seed=1)


def rows(parts: list[torch.Tensor]) -> list[int]:
    return [int(block) for part in parts for block in part[:, 0]]


def test_an_epoch_takes_every_block_once_over_all_ranks() -> None:
    text = stream(blocks=12, per_step=4)
    taken = [row for step in range(3) for rank in range(2) for row in rows(text.share(step, rank, 2, 1000))]
    assert sorted(taken) == list(range(12))
    assert taken != [row for step in range(3, 6) for rank in range(2) for row in rows(text.share(step, rank, 2, 1000))]


def test_a_step_is_a_pure_function_of_its_number_and_of_no_rank_count() -> None:
    text = stream(blocks=7, per_step=4)
    alone = rows(text.share(5, 0, 1, 1000))
    assert sorted(alone) == sorted(rows(text.share(5, 0, 2, 1000)) + rows(text.share(5, 1, 2, 1000)))
    assert alone == rows(stream(blocks=7, per_step=4).share(5, 0, 1, 1000))


@pytest.mark.parametrize(("budget", "sizes"), [(4, [1] * 6), (9, [2, 2, 2]), (16, [4, 2]), (1000, [6])])
def test_micro_batches_stay_within_the_budget(budget: int, sizes: list[int]) -> None:
    assert [len(part) for part in stream(blocks=9, per_step=6).share(0, 0, 1, budget)] == sizes


def test_parts_add_up_to_the_language_model_loss(tiny_models: Any) -> None:
    from rlhf.models.heads import PolicyModel
    from rlhf.models.loading import load_causal_lm

    model = load_causal_lm(str(tiny_models.tied), torch.float32)
    tokens = torch.randint(3, 200, (6, 8), generator=torch.Generator().manual_seed(0))
    text = PtxLoss(tokens, per_step=6, coef=0.5, seed=0)
    parts = [text.loss(PolicyModel(model)(part, predicted(part)), part) for part in text.share(0, 0, 1, 16)]
    wanted = float(model(tokens, labels=tokens).loss)
    assert sum(float(part.total) for part in parts) == pytest.approx(0.5 * wanted, rel=1e-5)
    assert values(parts[0].metrics).keys() == {"policy/ptx_loss"}
    assert len(parts) == 3


def test_texts_are_cut_into_blocks_once_and_too_few_are_refused(tiny_models: Any, tmp_path: Path) -> None:
    from rlhf.models.loading import load_tokenizer

    file = tmp_path / "text.jsonl"
    file.write_text("".join(json.dumps({"text": "1 2 3 4 5 " * 20, "lang": "en"}) + "\n" for _ in range(3)))
    tokenizer = load_tokenizer(str(tiny_models.tied))
    config = PtxConfig(texts=[str(file)], block_length=16, blocks_per_step=4)
    write_ptx(config, tokenizer, tmp_path / "work")
    assert read_ptx(config, tmp_path / "work", seed=3).blocks.shape[1] == 16
    with pytest.raises(DataError, match=r"ptx.texts: \d+ blocks of 16 tokens, and a step takes 999; give more text"):
        write_ptx(config.model_copy(update={"blocks_per_step": 999}), tokenizer, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"policy": {"model": "m", "resources": {"ranks": 3}}}, r"ptx.blocks_per_step \(16\): not a multiple of"),
        ({"rollout": {"prompts_per_step": 2, "temperature": 0.7}}, r"ptx: needs rollout.temperature 1 \(got 0.7\)"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fakes.config(ptx={"texts": ["text.jsonl"]}, **changes)
