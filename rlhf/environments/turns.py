"""What stands between two responses: an observation in the words of the chat template, as tokens."""

from __future__ import annotations

from typing import Any

from rlhf.errors import ConfigError

_ANSWER, _MARK = "Aq7", "Zq9"


class TurnTemplate:
    """Renders observations. What was sampled is never decoded and encoded again: its tokens stay as they are."""

    def __init__(self, tokenizer: Any, role: str) -> None:
        """Raises ConfigError when the chat template has no such role, or rewrites earlier turns."""
        self.tokenizer = tokenizer
        self._before, self._after = _between(tokenizer, role)

    def tokens(self, observation: str) -> list[int]:
        """The tokens from the end of a response to the start of the next. Special tokens that an observation spells
        out are plain text: an environment cannot end a turn or begin another."""
        parts = ((self._before, False), (observation, True), (self._after, False))
        return [
            token for text, plain in parts
            for token in self.tokenizer(text, add_special_tokens=False, split_special_tokens=plain)["input_ids"]
        ]


def _between(tokenizer: Any, role: str) -> tuple[str, str]:
    from jinja2 import TemplateError

    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    try:
        answered = tokenizer.apply_chat_template(turns, tokenize=False)
        observed = tokenizer.apply_chat_template(
            [*turns, {"role": role, "content": _MARK}], tokenize=False, add_generation_prompt=True
        )
    except TemplateError as error:
        raise ConfigError(f"environment.observation_role: the chat template refuses role '{role}': {error}") from None
    start = answered[: answered.rindex(_ANSWER) + len(_ANSWER)] + tokenizer.eos_token
    if not observed.startswith(start) or observed.count(_MARK) != 1:
        raise ConfigError(
            f"environment.observation_role: the chat template renders role '{role}' in a way that changes or hides "
            f"earlier turns; name another role, or use a template that appends turns"
        )
    before, _, after = observed.removeprefix(start).partition(_MARK)
    return before, after
