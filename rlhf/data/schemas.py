"""The four kinds of record, and the forms in which the world writes them.

Every function takes one record as read, and its place ("file:line") for the message of the DataError that it
raises when columns are missing or hold something else.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from rlhf.errors import DataError

UNKNOWN_LANGUAGE = "und"  # ISO 639-2 for "undetermined"
_MOST_BLANKS = 1_000_000
_BLANKS = re.compile(rf"\s{{{_MOST_BLANKS + 1}}}")
ROLES = ("system", "user", "assistant")

Message = dict[str, str]
"""{"role": "system" | "user" | "assistant", "content": text}"""

_SHAREGPT_ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
_INSTRUCTION_FORMS = (("messages",), ("conversations",), ("instruction", "output"), ("prompt", "response"))


@dataclass(frozen=True)
class TextRecord:
    """A document for pretraining."""

    text: str
    lang: str


@dataclass(frozen=True)
class InstructionRecord:
    """A conversation in which the assistant writes at least once; it ends with the assistant."""

    messages: list[Message]
    lang: str


@dataclass(frozen=True)
class PreferenceRecord:
    """Two responses to one prompt; `prompt` ends with a user turn."""

    prompt: list[Message]
    chosen: str
    rejected: str
    lang: str


@dataclass(frozen=True)
class PromptRecord:
    """A conversation that waits for the assistant.

    `task` is what a checker needs, `source` the data set that it comes from, where these are given.
    """

    id: str | None
    messages: list[Message]
    lang: str
    task: Mapping[str, Any] | None
    source: str = ""


def text_record(record: Mapping[str, Any], place: str) -> TextRecord:
    """{"text"}."""
    _require(record, (("text",),), "text", place)
    return TextRecord(_text(record, "text", place), _language(record, place))


def instruction_record(record: Mapping[str, Any], place: str) -> InstructionRecord:
    """{"messages"}, ShareGPT's {"conversations"}, Alpaca's {"instruction", "input", "output"}, {"prompt", "response"}.

    User turns that no assistant turn follows are cut off at the end.
    """
    form = _require(record, _INSTRUCTION_FORMS, "instruction", place)
    if form[0] in ("messages", "conversations"):
        messages = _messages(record, form[0], place)
    else:
        asked, answered = form
        question = _text(record, asked, place)
        if isinstance(record.get("input"), str) and record["input"].strip():
            question = f"{question}\n{whole(record['input'], place)}"
        messages = [_turn("user", question), _turn("assistant", _text(record, answered, place))]
    while messages and messages[-1]["role"] != "assistant":
        messages = messages[:-1]
    if not messages:
        raise DataError(f"{place}: the conversation has no turn of the assistant; expected at least one")
    return InstructionRecord(messages, _language(record, place))


def preference_record(record: Mapping[str, Any], place: str) -> PreferenceRecord:
    """{"prompt", "chosen", "rejected"}; the prompt a text or turns, a response a text or turns ending in it."""
    _require(record, (("prompt", "chosen", "rejected"),), "preference", place)
    chosen, rejected = (_response(record, key, place) for key in ("chosen", "rejected"))
    return PreferenceRecord(_prompt(record, place), chosen, rejected, _language(record, place))


def prompt_record(record: Mapping[str, Any], place: str) -> PromptRecord:
    """{"prompt"} as a text or turns, or an instruction record of any form, whose last answer is left out."""
    form = _require(record, (("prompt",), ("messages",), ("conversations",), ("instruction",)), "prompt", place)
    if form[0] == "prompt":
        messages = _prompt(record, place)
    else:
        answered = {**record, "output": record.get("output", "")} if form[0] == "instruction" else record
        messages = prompt_of(instruction_record(answered, place).messages)
    source = record.get("source")
    if source is not None and not isinstance(source, str):
        raise DataError(f"{place}: column 'source' holds a {type(source).__name__}, expected a text or nothing")
    found = None if record.get("id") is None else whole(str(record["id"]), place)
    return PromptRecord(found, messages, _language(record, place), _task(record, place), whole(source or "", place))


def _task(record: Mapping[str, Any], place: str) -> Mapping[str, Any] | None:
    """What a checker needs. It is kept beside rollouts as JSON, so it has to be that."""
    task = record.get("task")
    if task is None:
        return None
    if not isinstance(task, Mapping):
        raise DataError(f"{place}: column 'task' holds a {type(task).__name__}, expected an object or nothing")
    try:
        text = json.dumps(dict(task), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"{place}: column 'task' holds what JSON cannot ({error}); use texts and numbers") from None
    whole(text, place)
    return task


def prompt_of(messages: Sequence[Message]) -> list[Message]:
    """A conversation without its last assistant turn."""
    return list(messages[:-1])


def _require(record: Mapping[str, Any], forms: Sequence[tuple[str, ...]], kind: str, place: str) -> tuple[str, ...]:
    """The first form whose columns are all there."""
    for form in forms:
        if all(key in record for key in form):
            return form
    wanted = " or ".join(" + ".join(f"'{key}'" for key in form) for form in forms)
    known = list(dict.fromkeys(key for form in forms for key in form))
    hints = []
    for name in (_short(str(name)) for name in record if name not in known):
        close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
        hints += [f"did you mean '{close[0]}' where it says '{name}'?"] if close else []
    found = ", ".join(f"'{_short(str(key))}'" for key in islice(record, 10)) or "none"
    sentence = f"{place}: missing columns for {kind} data: expected {wanted}, found {found}"
    raise DataError("; ".join([sentence, *hints]))


def _text(record: Mapping[str, Any], key: str, place: str) -> str:
    value = record[key]
    if not isinstance(value, str):
        raise DataError(f"{place}: column '{key}' holds a {_kind(value)}, expected text")
    return whole(value, place)


def whole(text: str, place: str) -> str:
    """The text itself. Raises DataError, with `place`, for what no tokenizer can read.

    JSON can spell half of a character. And where millions of blanks stand in a row, the regular expression by which a
    byte-level tokenizer cuts words gives up, which ends the process.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{place}: holds half of a character (a lone surrogate); remove it") from None
    if len(text) > _MOST_BLANKS and _BLANKS.search(text):
        raise DataError(f"{place}: holds more than {_MOST_BLANKS} blanks in a row; remove them")
    return text


def _language(record: Mapping[str, Any], place: str) -> str:
    return _text(record, "lang", place) if record.get("lang") is not None else UNKNOWN_LANGUAGE


def _prompt(record: Mapping[str, Any], place: str) -> list[Message]:
    if isinstance(record["prompt"], str):
        return [_turn("user", whole(record["prompt"], place))]
    messages = _messages(record, "prompt", place)
    if not messages or messages[-1]["role"] != "user":
        raise DataError(f"{place}: column 'prompt' must end with a turn of the user")
    return messages


def _response(record: Mapping[str, Any], key: str, place: str) -> str:
    if isinstance(record[key], str):
        return whole(record[key], place)
    messages = _messages(record, key, place)
    if not messages or messages[-1]["role"] != "assistant":
        raise DataError(f"{place}: column '{key}' must be text, or turns that end with the assistant")
    return messages[-1]["content"]


def _messages(record: Mapping[str, Any], key: str, place: str) -> list[Message]:
    """Turns in either of the two usual spellings: role and content, or ShareGPT's from and value."""
    turns = record[key]
    if not isinstance(turns, Sequence) or isinstance(turns, str):
        raise DataError(f"{place}: column '{key}' holds a {_kind(turns)}, expected a list of turns")
    messages = []
    for number, turn in enumerate(turns, 1):
        spelling = ("from", "value") if isinstance(turn, Mapping) and "from" in turn else ("role", "content")
        if not isinstance(turn, Mapping) or not all(isinstance(turn.get(name), str) for name in spelling):
            raise DataError(f"{place}: turn {number} of column '{key}' needs the texts 'role' and 'content'")
        role = _SHAREGPT_ROLES.get(whole(turn[spelling[0]], place))
        if role is None:
            known = ", ".join(sorted(_SHAREGPT_ROLES))
            found = _short(turn[spelling[0]])
            raise DataError(f"{place}: turn {number} of column '{key}' has the role '{found}'; known are {known}")
        messages.append(_turn(role, whole(turn[spelling[1]], place)))
    return messages


def _turn(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:60]}…"


def _kind(value: Any) -> str:
    return "null" if value is None else type(value).__name__
