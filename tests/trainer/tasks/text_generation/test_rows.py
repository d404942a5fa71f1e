from typing import Any

import pytest

from finetune_trainer.config import Columns
from finetune_trainer.tasks.text_generation.rows import Passage, parse_passage

ASKED = {"role": "user", "content": "Red?"}
ANSWERED = {"role": "assistant", "content": "Green."}


def read(train_on: str = "Completion", **values: Any) -> Passage | str:
    return parse_passage(4, values, Columns(), train_on)  # type: ignore[arg-type]


def test_a_row_is_what_its_columns_say() -> None:
    chat = read(messages=[ASKED, ANSWERED], prompt="p", text="t")
    pair = read(prompt=" What? ", completion=" That.\n", text="t")
    text = read(text="  Once upon a time. ", prompt=None)

    assert isinstance(chat, Passage)
    assert [(m.role, m.content, m.weight) for m in chat.messages] == [
        ("user", "Red?", 0),
        ("assistant", "Green.", 1),
    ]
    assert isinstance(pair, Passage)
    assert (pair.prompt, pair.completion, pair.messages) == (" What? ", " That.\n", ())
    assert isinstance(text, Passage)
    assert (text.prompt, text.completion) == ("", "  Once upon a time. ")


def test_columns_may_have_other_names() -> None:
    row = parse_passage(1, {"q": "a", "a": "b"}, Columns(prompt="q", completion="a"), "Completion")
    assert isinstance(row, Passage)
    assert (row.prompt, row.completion) == ("a", "b")


def test_a_message_of_weight_0_is_not_learnt() -> None:
    row = read(messages=[ASKED, {**ANSWERED, "weight": 0}, ASKED, {**ANSWERED, "weight": 1}])
    assert isinstance(row, Passage)
    assert [message.weight for message in row.messages] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({}, "has no 'messages', no 'prompt' with 'completion' and no 'text'"),
        ({"text": 3}, "'text' is a number, not a text"),
        ({"text": " \n"}, "'text' is empty"),
        ({"text": "a\0b"}, "'text' holds a NUL"),
        ({"prompt": "a"}, "has 'prompt' but no 'completion'"),
        ({"completion": "a"}, "has 'completion' but no 'prompt'"),
        ({"prompt": "a", "completion": " "}, "'completion' is empty"),
        ({"prompt": "", "completion": "a"}, "'prompt' is empty"),
        ({"prompt": ["a"], "completion": "a"}, "'prompt' is a list, not a text"),
        ({"messages": "[]"}, "'messages' is str, not a list of messages"),
        ({"messages": []}, "'messages' is empty"),
        ({"messages": ["Hi"]}, "message 1 of 'messages' is str, not an object with role and content"),
        ({"messages": [ASKED]}, "'messages' has no message of the assistant"),
        (
            {"messages": [ASKED, {**ANSWERED, "weight": 0}]},
            "'messages' has no message of the assistant with a weight other than 0",
        ),
        (
            {"messages": [{"role": "bot", "content": "x"}]},
            "message 1 of 'messages' has a role other than system, user, assistant, tool",
        ),
        ({"messages": [{"content": "x"}]}, "message 1 of 'messages' has a role other than system"),
        ({"messages": [ASKED, {"role": "assistant"}]}, "message 2 of 'messages' has as content null"),
        (
            {"messages": [ASKED, {"role": "assistant", "content": [{"text": "x"}]}]},
            "has as content a list, not a text",
        ),
        ({"messages": [ASKED, {"role": "assistant", "content": " "}]}, "is to be learnt but empty"),
        ({"messages": [ASKED, {"role": "assistant", "content": "\0"}]}, "holds a NUL"),
        ({"messages": [ASKED, {**ANSWERED, "weight": 0.5}]}, "has a weight other than 0 and 1"),
        ({"messages": [ASKED, {**ANSWERED, "weight": True}]}, "has a weight other than 0 and 1"),
        ({"messages": [{**ASKED, "weight": 1}, ANSWERED]}, "only the assistant's messages are learnt"),
        (
            {"messages": [ASKED, {**ANSWERED, "tool_calls": []}]},
            "message 2 of 'messages' has 'tool_calls', which are not supported; the known keys are role",
        ),
        (
            {"messages": [ASKED, {**ANSWERED, "name": "Ann"}]},
            "has a key other than role, content, weight",
        ),
    ],
    ids=str,
)
def test_a_bad_row_says_what_is_wrong(values: dict[str, Any], reason: str) -> None:
    found = read(**values)
    assert isinstance(found, str)
    assert reason in found


def test_all_tokens_may_be_learnt_of_a_conversation_without_an_answer() -> None:
    assert isinstance(read("All", messages=[ASKED]), Passage)


def test_rows_are_the_same_question_where_they_start_alike() -> None:
    one, two = read(prompt="Red ?", completion="a"), read(prompt="RED\n?", completion="b")
    assert isinstance(one, Passage)
    assert isinstance(two, Passage)
    assert one.key == two.key
    assert one.identity != two.identity
    first, second = read(text="One"), read(text="Two")
    assert isinstance(first, Passage)
    assert isinstance(second, Passage)
    assert first.key != second.key
    chat = read(messages=[ASKED, ANSWERED, ASKED, ANSWERED])
    again = read(messages=[ASKED, {**ANSWERED, "content": "Blue."}])
    assert isinstance(chat, Passage)
    assert isinstance(again, Passage)
    assert chat.key == again.key == "user: red?"
    assert chat.stratum == one.stratum == ""
