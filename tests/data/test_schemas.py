"""The spellings that a record may have, and what is said of one that has none of them."""

import pytest

from rlhf.data import schemas
from rlhf.errors import DataError

ASKED = {"role": "user", "content": "2+2?"}
ANSWERED = {"role": "assistant", "content": "4"}
SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [ASKED, ANSWERED]},
        {"messages": [ASKED, ANSWERED, {"role": "user", "content": "unanswered"}]},
        {"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}]},
        {"instruction": "2+2?", "output": "4"},
        {"instruction": "2+2?", "input": " ", "output": "4"},
        {"prompt": "2+2?", "response": "4"},
    ],
)
def test_instruction_spellings(record):
    found = schemas.instruction_record({**record, "lang": "en"}, "f:1")
    assert found == schemas.InstructionRecord([ASKED, ANSWERED], "en")


def test_alpaca_input_joins_the_instruction():
    record = {"instruction": "Sort.", "input": "3 1 2", "output": "1 2 3"}
    assert schemas.instruction_record(record, "f:1").messages[0]["content"] == "Sort.\n3 1 2"


def test_language_is_undetermined_when_not_given():
    assert schemas.text_record({"text": "x"}, "f:1").lang == "und"


def test_preference_spellings():
    plain = schemas.preference_record({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "f:1")
    turns = schemas.preference_record(
        {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": [{"role": "assistant", "content": "5"}]}, "f:1"
    )
    assert plain == turns == schemas.PreferenceRecord([ASKED], "4", "5", "und")


def test_prompt_spellings():
    assert schemas.prompt_record({"prompt": "2+2?"}, "f:1") == schemas.PromptRecord(None, [ASKED], "und", None)
    full = {"id": 7, "prompt": [SYSTEM, ASKED], "lang": "en", "task": {"family": "add"}}
    assert schemas.prompt_record(full, "f:1") == schemas.PromptRecord("7", [SYSTEM, ASKED], "en", {"family": "add"})
    assert schemas.prompt_record({"instruction": "2+2?", "input": ""}, "f:1").messages == [ASKED]
    assert schemas.prompt_record({"messages": [ASKED, ANSWERED]}, "f:1").messages == [ASKED]


def said(check, record) -> str:
    with pytest.raises(DataError) as caught:
        check(record, "file.jsonl:3")
    assert str(caught.value).startswith("file.jsonl:3: ")
    return str(caught.value)


def test_missing_and_misnamed_columns_are_named():
    text = said(schemas.instruction_record, {"instrution": "a", "output": "b"})
    assert "found 'instrution', 'output'" in text
    assert "'instruction' + 'output'" in text
    assert "did you mean 'instruction' where it says 'instrution'?" in text
    text = said(schemas.preference_record, {"prompt": "a", "choosen": "b", "rejected": "c"})
    assert "did you mean 'chosen' where it says 'choosen'?" in text
    assert "did you mean" not in said(schemas.text_record, {"id": 1})


@pytest.mark.parametrize(
    ("check", "record", "words"),
    [
        (schemas.text_record, {"text": None}, "column 'text' holds a null, expected text"),
        (schemas.instruction_record, {"messages": "hello"}, "expected a list of turns"),
        (schemas.instruction_record, {"messages": [{"role": "user"}]}, "turn 1 of column 'messages'"),
        (schemas.instruction_record, {"messages": [{"role": "robot", "content": "x"}]}, "the role 'robot'"),
        (schemas.instruction_record, {"messages": [ASKED]}, "no turn of the assistant"),
        (schemas.preference_record, {"prompt": [ANSWERED], "chosen": "a", "rejected": "b"}, "with a turn of the user"),
        (schemas.preference_record, {"prompt": "a", "chosen": [ASKED], "rejected": "b"}, "end with the assistant"),
        (schemas.prompt_record, {"prompt": "a", "task": 3}, "column 'task' holds a int"),
        (schemas.text_record, {"text": "a", "lang": 3}, "column 'lang' holds a int"),
    ],
)
def test_contents_of_another_kind(check, record, words):
    assert words in said(check, record)
