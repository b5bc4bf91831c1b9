"""What the models are trained on, token by token."""

import copy

import pytest

from rlhf.data.encoding import (
    IGNORED,
    encode_blocks,
    encode_conversations,
    encode_pairs,
    longer_is_better,
    prompt_ids,
    response_ids,
)
from rlhf.data.schemas import PreferenceRecord

CHAT = [
    {"role": "system", "content": "reverse these words"},
    {"role": "user", "content": "What is two and two?"},
    {"role": "assistant", "content": "It is four."},
    {"role": "user", "content": "把数字排序:三一二"},
    {"role": "assistant", "content": "一二三"},
]


def learned(tokenizer, labels) -> str:
    return tokenizer.decode([token for token in labels if token != IGNORED])


def test_sft_labels_are_the_assistants_tokens_with_their_end_tokens(tokenizer):
    columns = encode_conversations(tokenizer, [CHAT], 200).columns
    (ids,), (labels,) = columns["input_ids"], columns["labels"]
    assert learned(tokenizer, labels) == "It is four.<|im_end|>一二三<|im_end|>"
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    assert labels[-1] == tokenizer.eos_token_id


def test_sft_labels_equal_those_of_trl(tokenizer):
    """TRL's own preparation with assistant_only_loss is the oracle."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    chats = [CHAT, CHAT[1:3], [CHAT[3], CHAT[4]]]
    trainer = SFTTrainer.__new__(SFTTrainer)
    trainer._tokenizer = tokenizer
    trainer.chat_template, trainer.completion_only_loss = None, False
    args = SFTConfig(assistant_only_loss=True, max_length=40, report_to="none", use_cpu=True, bf16=False)
    theirs = trainer._prepare_dataset(Dataset.from_dict({"messages": chats}), tokenizer, args, False, None, "train")
    ours = encode_conversations(tokenizer, chats, 40).columns
    assert ours["input_ids"] == list(theirs["input_ids"])
    assert ours["labels"] == list(theirs["labels"])


def test_sft_labels_with_a_template_of_another_family(tokenizer):
    from trl.chat_template_utils import get_training_chat_template, qwen2_5_chat_template

    foreign = copy.deepcopy(tokenizer)
    foreign.chat_template = qwen2_5_chat_template
    encoded = encode_conversations(foreign, [CHAT], 300, get_training_chat_template(foreign))
    assert learned(foreign, encoded.columns["labels"][0]).replace("\n", "") == "It is four.<|im_end|>一二三<|im_end|>"


def test_sft_examples_are_cut_and_left_out_when_nothing_is_left_to_learn(tokenizer):
    (whole,) = encode_conversations(tokenizer, [CHAT], 200).columns["input_ids"]
    cut = encode_conversations(tokenizer, [CHAT], len(whole) - 1)
    assert cut.columns["input_ids"] == [whole[:-1]]
    nothing = encode_conversations(tokenizer, [CHAT], 5)
    assert (len(nothing), nothing.left_out) == (0, 1)


def test_blocks_hold_all_documents_each_with_its_end(tokenizer):
    texts = ["It is four.", "一二三", "What is two and two?"]
    encoded = encode_blocks(tokenizer, texts, 8, keep_rest=True)
    tokens = [token for row in encoded.columns["labels"] for token in row if token != IGNORED]
    assert tokenizer.decode(tokens) == "".join(f"{text}<|im_end|>" for text in texts)
    assert {len(row) for row in encoded.columns["input_ids"]} == {8}
    assert encoded.tokens == len(tokens)


def test_blocks_for_training_are_full(tokenizer):
    encoded = encode_blocks(tokenizer, ["It is four."] * 50, 16)
    assert encoded.columns["input_ids"] == encoded.columns["labels"]
    assert {len(row) for row in encoded.columns["input_ids"]} == {16}
    assert len(encode_blocks(tokenizer, ["一"], 64)) == 0


def test_a_pair_is_what_the_reward_model_sees_when_it_scores_a_rollout(tokenizer):
    pair = PreferenceRecord(CHAT[:2], "It is four.", "\nfour", "en")
    encoded = encode_pairs(tokenizer, [pair], 200)
    rendered = tokenizer.apply_chat_template(CHAT[:2], tokenize=False, add_generation_prompt=True)
    (chosen,), (rejected,) = encoded.columns["chosen_ids"], encoded.columns["rejected_ids"]
    assert tokenizer.decode(chosen) == f"{rendered}It is four.<|im_end|>"
    assert chosen[-1] == rejected[-1] == tokenizer.eos_token_id
    (prompt,) = prompt_ids(tokenizer, [pair.prompt])
    assert rejected == prompt + response_ids(tokenizer, ["\nfour"])[0]


def test_long_pairs_are_left_out(tokenizer):
    pairs = [PreferenceRecord(CHAT[:2], "It is four.", word, "en") for word in ("一", "It is four. " * 50)]
    encoded = encode_pairs(tokenizer, pairs, 100)
    assert (len(encoded), encoded.left_out) == (1, 1)


def test_longer_is_better_counts_ties_half():
    parts = [{"chosen_ids": [[1], [1, 2]], "rejected_ids": [[2], [3]]}, {"chosen_ids": [[1]], "rejected_ids": [[1, 2]]}]
    assert longer_is_better(parts) == pytest.approx(0.5)
