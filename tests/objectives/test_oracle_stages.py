"""What SFT and the reward model minimise, from conversations to gradients: TRL's trainers and ours give the same.

TRL is given the conversations and does all the rest itself; we encode them, and take the loss with our own heads.
"""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch import Tensor
from trl import RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from rlhf.batch import from_completions
from rlhf.data.encoding import encode_conversations, encode_pairs
from rlhf.data.schemas import PreferenceRecord
from rlhf.models.heads import PolicyModel, SequenceScorer, transformers_names
from rlhf.models.loading import load_causal_lm, load_reward_model, load_tokenizer
from rlhf.training.evaluation import language_model_sums
from rlhf.training.trainers import RewardModelTrainer

CHATS = [
    [("user", "12 7 301"), ("assistant", "7 12 301")],
    [("system", "请排序"), ("user", "5 4"), ("assistant", "4 5"), ("user", "9"), ("assistant", "")],
    [("user", "88"), ("assistant", "88 88 88 88 88 88 88 88")],
]
PAIRS = [("3 2 1", "1 2 3", "3 2 1 0 0 0"), ("请排序 9 8", "8 9", "9"), ("4", "", "4 4"), ("70 60", "60 70", "70 60")]
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


def arguments(kind, output: Path, **settings):
    return kind(
        output_dir=str(output), use_cpu=True, bf16=False, report_to="none", gradient_checkpointing=False,
        per_device_train_batch_size=8, max_length=None, **settings,
    )


def gradients_of(trainer) -> tuple[Tensor, dict[str, Tensor], dict]:
    """TRL's loss of its first batch, the gradient of every parameter, and the batch."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=None)
    loss.backward()
    return loss.detach(), {name: weight.grad for name, weight in trainer.model.named_parameters()}, batch


def assert_same(wrapper, model, loss: Tensor, wanted: tuple[Tensor, dict[str, Tensor], dict]) -> None:
    loss.backward()
    torch.testing.assert_close(loss.detach(), wanted[0], **TOLERANCE)
    names = transformers_names(wrapper, model)
    found = {names[name]: weight.grad for name, weight in wrapper.named_parameters()}
    assert len(found.keys() & wanted[1].keys()) >= len(found) - 1  # tied embeddings have one name of two
    for name in found.keys() & wanted[1].keys():
        torch.testing.assert_close(found[name], wanted[1][name], **TOLERANCE)
    assert max(float(gradient.abs().max()) for gradient in wanted[1].values()) > 0.01


@pytest.mark.parametrize("tied", [True, False])
def test_sft(tiny_models, tmp_path: Path, tied: bool) -> None:
    path = tiny_models.tied if tied else tiny_models.untied
    chats = [[{"role": role, "content": text} for role, text in chat] for chat in CHATS]
    trainer = SFTTrainer(
        str(path), arguments(SFTConfig, tmp_path, assistant_only_loss=True),
        train_dataset=Dataset.from_dict({"messages": chats}), processing_class=load_tokenizer(path),
    )
    wanted = gradients_of(trainer)
    encoded = encode_conversations(load_tokenizer(path), chats, 128)
    rows = encoded.columns["input_ids"]
    rollout = from_completions([[]] * len(rows), rows, [[0.0] * len(row) for row in rows], [True] * len(rows), 0, 0)
    mask = torch.zeros_like(rollout.response_mask)
    for row, labels in enumerate(encoded.columns["labels"]):
        mask[row, : len(labels)] = torch.tensor(labels) != -100
    model = load_causal_lm(path, torch.float32)
    policy = PolicyModel(model)
    logprobs, _ = policy(rollout.tokens, mask)
    assert_same(policy, model, -logprobs.sum() / mask.sum(), wanted)
    with torch.no_grad():
        sums = language_model_sums(model.eval(), wanted[2])
    torch.testing.assert_close((sums[0] / sums[1]).float(), wanted[0], **TOLERANCE)
    assert int(sums[1]) == int(mask.sum())


def test_reward_model(tiny_models, tmp_path: Path) -> None:
    """Its head is scaled up, for scores that are apart."""

    def turn(role: str, text: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    tokenizer = load_tokenizer(tiny_models.reward)
    pairs = [PreferenceRecord(turn("user", prompt), better, worse, "en") for prompt, better, worse in PAIRS]
    table = {
        "prompt": [pair.prompt for pair in pairs], "chosen": [turn("assistant", pair.chosen) for pair in pairs],
        "rejected": [turn("assistant", pair.rejected) for pair in pairs],
    }
    model = load_reward_model(tiny_models.reward, torch.float32)
    model.score.weight.data *= 50
    trainer = RewardTrainer(
        copy.deepcopy(model), arguments(RewardConfig, tmp_path), train_dataset=Dataset.from_dict(table),
        processing_class=tokenizer,
    )
    wanted = gradients_of(trainer)
    encoded = encode_pairs(tokenizer, pairs, 128)
    rows = encoded.columns["chosen_ids"] + encoded.columns["rejected_ids"]
    rollout = from_completions([[]] * len(rows), rows, [[0.0] * len(row) for row in rows], [True] * len(rows), 0, 0)
    scorer = SequenceScorer(model)
    chosen, rejected = scorer(rollout.tokens, rollout.attention_mask).chunk(2)
    assert_same(scorer, model, -torch.nn.functional.logsigmoid(chosen - rejected).mean(), wanted)
    with torch.no_grad():
        loss, count, right = RewardModelTrainer.eval_sums(model.eval(), wanted[2])
    torch.testing.assert_close((loss / count).float(), wanted[0], **TOLERANCE)
    assert int(count) == len(PAIRS) and int(right) == int((chosen > rejected).sum())
