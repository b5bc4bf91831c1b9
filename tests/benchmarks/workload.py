"""The fixed workload of `make bench`: models, tokenizer and prompts from a seed, on disk.

One directory per variant holds what every side of the benchmark reads:

    policy/          Qwen2ForCausalLM, 4.0 million parameters, float32, tied embeddings, with tokenizer
    reward/          Qwen2ForSequenceClassification, one label, the same trunk size, with tokenizer
    prompts.jsonl    64 chats of 16 to 32 tokens (chat template and generation prompt included)

The variants differ in one number, the probability p of the end token at a step, averaged over positions:

    uniform   p = 0      every response has 64 tokens
    mixed     p = 0.04   widely spread lengths: 17 tokens on average, half of them below 12, 4% cut at 64

No side needs an option for that: the weights alone decide, so all of them run the same sampling settings.
The end token's logit is made constant by one coordinate of the residual stream that no layer writes to.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

VARIANTS = {"uniform": 0.0, "mixed": 0.04}
PROMPTS = 64
PROMPT_TOKENS = (16, 32)
NEW_TOKENS = 64
VOCABULARY = 4096
SEED = 20240

_SPECIAL = 3  # token ids 0 to 2: padding, start and end of a turn
_NEVER = -30.0  # nats: a logit that is never sampled among 4,096


def build(directory: Path, variant: str) -> Path:
    """Write the workload of `variant` below `directory` unless it is there; returns its directory."""
    target = directory / variant
    if (target / "complete").exists():
        return target
    import torch

    words = _words()
    tokenizer = _tokenizer(words)
    torch.manual_seed(SEED)
    policy = _policy(tokenizer)
    prompts = _prompts(tokenizer, words)
    _set_end_probability(policy, tokenizer, VARIANTS[variant], prompts)
    reward = _reward(tokenizer)
    for name, model in (("policy", policy), ("reward", reward)):
        model.save_pretrained(target / name)
        tokenizer.save_pretrained(target / name)
    lines = [json.dumps(prompt, ensure_ascii=False) for prompt in prompts]
    (target / "prompts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (target / "complete").touch()
    return target


def prompt_ids(directory: Path) -> list[list[int]]:
    """The 64 prompts of a workload as token ids, 16 to 32 each."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(directory / "policy")
    records = (json.loads(line) for line in (directory / "prompts.jsonl").read_text(encoding="utf-8").splitlines())
    return [_encode(tokenizer, record["prompt"]) for record in records]


def _encode(tokenizer: PreTrainedTokenizerFast, messages: list[dict[str, str]]) -> list[int]:
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def _words() -> list[str]:
    """3,000 made-up words, enough different letter pairs for 4,096 byte-level tokens."""
    import numpy as np

    generator = np.random.default_rng(SEED)
    syllables = [a + b + c for a in "bcdfghjklmnprstvw" for b in "aeiou" for c in ("", "n", "r", "s", "l")]
    return ["".join(generator.choice(syllables, size=generator.integers(1, 4))) for _ in range(3000)]


def _tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from rlhf.tokenization.template import CHAT_TEMPLATE, SPECIAL_TOKENS

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join(words[i : i + 50]) for i in range(0, len(words), 50)), trainer)
    if tokenizer.get_vocab_size() != VOCABULARY:
        raise AssertionError(f"the made-up words give {tokenizer.get_vocab_size()} tokens, not {VOCABULARY}")
    pad, _, end = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end, chat_template=CHAT_TEMPLATE, model_max_length=512
    )


def _config(tokenizer: PreTrainedTokenizerFast, **extra: object):
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        dtype="float32",
        **extra,
    )


def _policy(tokenizer: PreTrainedTokenizerFast) -> Qwen2ForCausalLM:
    from transformers import GenerationConfig, Qwen2ForCausalLM

    model = Qwen2ForCausalLM(_config(tokenizer)).float()
    model.generation_config = GenerationConfig(
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id
    )
    return model


def _reward(tokenizer: PreTrainedTokenizerFast):
    from transformers import Qwen2ForSequenceClassification

    return Qwen2ForSequenceClassification(_config(tokenizer, num_labels=1)).float()


def _set_end_probability(
    model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, goal: float, prompts: list[dict]
) -> None:
    """Make P(end) = `goal` on average over the steps of random responses, and P(other special token) = 0."""
    import torch

    table = model.model.embed_tokens.weight  # [V, hidden], tied with the output projection
    rows = [_encode(tokenizer, prompt["prompt"])[-PROMPT_TOKENS[0] :] for prompt in prompts]
    responses = torch.randint(_SPECIAL, VOCABULARY, (len(rows), NEW_TOKENS))
    ids = torch.cat([torch.tensor(rows), responses], dim=1)
    with torch.no_grad():
        for layer in model.model.layers:  # nothing writes coordinate 0 of the residual stream ...
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        table[:, 0] = 1.0  # ... so that it stays 1 for every token, and shifts every logit alike
        end = math.log(goal) if goal else _NEVER
        for _ in range(4):  # the end token stands in the prompts too, hence a fixed point
            hidden = model.model(ids).last_hidden_state[:, PROMPT_TOKENS[0] :, 0].mean()
            table[: _SPECIAL, 0] = 1.0 + _NEVER / hidden
            table[tokenizer.eos_token_id, 0] = 1.0 + end / hidden
            reached = model(ids).logits[:, PROMPT_TOKENS[0] :].softmax(-1)[..., tokenizer.eos_token_id].mean()
            end += math.log(goal / reached) if goal else 0.0


def _prompts(tokenizer: PreTrainedTokenizerFast, words: list[str]) -> list[dict]:
    import numpy as np

    generator = np.random.default_rng(SEED + 1)
    low, high = PROMPT_TOKENS
    records: list[dict] = []
    while len(records) < PROMPTS:
        goal = low + (high - low) * len(records) // (PROMPTS - 1)
        text = " ".join(generator.choice(words, size=generator.integers(1, 16)))
        prompt = [{"role": "user", "content": text}]
        if len(_encode(tokenizer, prompt)) == goal:
            records.append({"id": f"bench-{len(records):02d}", "prompt": prompt, "lang": "en"})
    generator.shuffle(records)
    return records
