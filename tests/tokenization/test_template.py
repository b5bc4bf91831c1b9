"""The chat template: what it renders, and which tokens it says the assistant wrote."""

from __future__ import annotations

USER = {"role": "user", "content": "把这些词倒过来写:猫、狗"}
ASSISTANT = {"role": "assistant", "content": "狗、猫"}


def test_a_conversation_ends_with_the_end_token(tokenizer) -> None:
    text = tokenizer.apply_chat_template([USER, ASSISTANT], tokenize=False)
    assert text == (
        "<|im_start|>user\n把这些词倒过来写:猫、狗<|im_end|>\n<|im_start|>assistant\n狗、猫<|im_end|>"
    )


def test_a_prompt_is_a_prefix_of_the_whole_conversation(tokenizer) -> None:
    prompt = tokenizer.apply_chat_template([USER], add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([USER, ASSISTANT], return_dict=False)
    response = tokenizer.encode(ASSISTANT["content"])
    assert whole == [*prompt, *response, tokenizer.eos_token_id]


def test_masks_cover_exactly_the_assistants_content_and_end_token(tokenizer) -> None:
    system = {"role": "system", "content": "Be brief."}
    english = {"role": "assistant", "content": " 3 5\n<b>😀"}
    turns = [system, USER, ASSISTANT, USER, english]
    found = tokenizer.apply_chat_template(turns, return_assistant_tokens_mask=True, return_dict=True)
    ids, mask = found["input_ids"], found["assistant_masks"]
    written = [token for token, own in zip(ids, mask, strict=True) if own]
    assert tokenizer.decode(written) == "狗、猫<|im_end|> 3 5\n<b>😀<|im_end|>"
    others = [token for token, own in zip(ids, mask, strict=True) if not own]
    assert tokenizer.decode(others) == tokenizer.apply_chat_template(
        [system, USER, {"role": "assistant", "content": "|"}, USER, {"role": "assistant", "content": "|"}],
        tokenize=False,
    ).replace("|<|im_end|>", "")


def test_roles_are_single_tokens(tokenizer) -> None:
    assert len(tokenizer.encode("user")) == len(tokenizer.encode("assistant")) == 1
