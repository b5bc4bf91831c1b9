"""Prompts of a run: read once, checked against the context, dealt out as a pure function of the step."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf.batch import Prompt, PromptBatch
from rlhf.data.readers import read_records
from rlhf.errors import DataError
from rlhf.tasks import is_checkable, require_answerable


class PromptStream:
    """Endless epochs over the prompts, each shuffled under (seed, epoch).

    What lies at a position is a pure function of (seed, position): a resumed run sees the very prompts that it would
    have seen. Each prompt is asked `responses` times.
    """

    def __init__(self, prompts: Sequence[Prompt], per_step: int, seed: int, responses: int = 1) -> None:
        self.prompts = list(prompts)
        self.per_step = per_step
        self.seed = seed
        self.responses = responses

    def batch(self, step: int, position: int | None = None, drawn: int = 0) -> PromptBatch:
        """The prompts from `position` on (by default where step `step`, from 0, finds them), for one rollout.

        `drawn` counts the rollouts of the step before this one, so that each has seeds of its own.
        """
        first = step * self.per_step if position is None else position
        asked = [self._at(place) for place in range(first, first + self.per_step) for _ in range(self.responses)]
        groups = [row // self.responses for row in range(len(asked))]
        return PromptBatch(asked, sampling_seeds(self.seed, step, len(asked), drawn), groups)

    def _at(self, position: int) -> Prompt:
        epoch, index = divmod(position, len(self.prompts))
        return self.prompts[self._order(epoch)[index]]

    def _order(self, epoch: int) -> list[int]:
        if getattr(self, "_cached", (None,))[0] != epoch:
            order = list(range(len(self.prompts)))
            random.Random(f"prompts {self.seed} {epoch}").shuffle(order)
            self._cached = (epoch, order)
        return self._cached[1]


class FixedPrompts(PromptStream):
    """The prompts of the first step, again and again, each time under other seeds: what overfits if anything does."""

    def batch(self, step: int, position: int | None = None, drawn: int = 0) -> PromptBatch:
        return super().batch(step, 0, drawn)


def sampling_seeds(seed: int, step: int, count: int, drawn: int = 0) -> list[int]:
    """One 62-bit seed per response of a rollout, a pure function of the arguments."""
    generator = random.Random(f"sampling {seed} {step} {drawn}" if drawn else f"sampling {seed} {step}")
    return [generator.getrandbits(62) for _ in range(count)]


def read_prompts(path: Path | str, tokenizer: Any, max_tokens: int) -> list[Prompt]:
    """Read a file of prompt records and render them with the chat template, generation prompt included.

    Raises DataError for a record without a usable `prompt`, for one longer than `max_tokens`, and for a task that the
    gold checker has no answer to, with file, line and remedy.
    """
    from rlhf.data.schemas import prompt_record

    found = []
    for line, record in read_records(path):
        row = prompt_record(record, f"{path}:{line}")
        ids = _render(tokenizer, row.messages, f"{path}:{line}")
        if len(ids) > max_tokens:
            raise DataError(
                f"{path}:{line}: the prompt has {len(ids)} tokens, and the context leaves room for {max_tokens}; "
                f"shorten it, drop it, or lower max_new_tokens"
            )
        if row.task is not None and is_checkable(row.task):
            require_answerable(row.task, f"{path}:{line}")
        text = "\n".join(message["content"] for message in row.messages)
        messages = tuple(row.messages)
        found.append(Prompt(row.id or str(line), tuple(ids), text, row.lang, row.task, row.source, messages))
    return found


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], place: str) -> list[int]:
    from jinja2 import TemplateError

    try:
        return tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=False)
    except TemplateError as error:  # templates refuse what their model was not trained on, a system turn for example
        raise DataError(f"{place}: the model's chat template refuses these turns: {error}") from None
