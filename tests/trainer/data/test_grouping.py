"""Prompts that repeat: which rows of text generation are the same question."""

from collections.abc import Sequence
from typing import Any

import pytest

from finetune_trainer.config import Columns, Dataset, HeldOut, TrainSplit
from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.partition import Partition, partition
from finetune_trainer.data.rows import Strata
from finetune_trainer.failures import StageFailure
from finetune_trainer.tasks.text_generation.rows import Passage, parse_passage
from tests.trainer.data.kept import kept

SYSTEM = {"role": "system", "content": "You are Ann."}


def chats(*talks: Sequence[str]) -> list[Passage]:
    """Conversations that begin with the user."""
    rows = []
    for line, talk in enumerate(talks, start=1):
        said = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(talk)]
        row = parse_passage(line, {"messages": [SYSTEM, *said]}, Columns(), "Completion")
        assert isinstance(row, Passage)
        rows.append(row)
    return rows


def parted(train: list[Passage], test: list[Passage] | None = None) -> Partition:
    files: dict[SplitName, list[Any]] = {"train": train} | ({"test": test} if test is not None else {})
    dataset = Dataset(
        train=TrainSplit(uri="s3://d/train"),
        validation=HeldOut(split=0.1),
        test=HeldOut(split=0.1) if test is None else HeldOut(uri="s3://d/test"),
    )
    names = Strata()
    rows = {name: kept(examples, names) for name, examples in files.items()}
    return partition(rows, {name: f"s3://d/{name}" for name in files}, dataset, 1)


def sizes(found: Partition) -> list[int]:
    return [len(rows) for rows in found.splits.values()]


def warnings(found: Partition) -> dict[str, Finding]:
    return {finding.code: finding for finding in found.findings}


def test_one_prompt_before_every_text_holds_whole_rows_apart() -> None:
    found = parted(chats(*(["Write a post.", f"Post {number}"] for number in range(400))))
    assert (sizes(found), found.left_out) == ([320, 40, 40], 0)
    note = warnings(found)["PromptsRepeat"]
    assert "400 of 400 rows of s3://d/train have one of 1 prompts" in note.message
    assert note.lines == ("1: Write a post. (400 rows)",)


def test_one_prompt_and_a_test_file_leave_out_whole_rows_only() -> None:
    train = chats(*(["Write a post.", f"Post {number}"] for number in range(100)))
    test = chats(*(["Write a post.", f"Other {number}"] for number in range(19)), ["Write a post.", "Post 3"])
    found = parted(train, test)
    assert (sizes(found), found.left_out) == ([89, 10, 20], 1)
    left_out = warnings(found)["Overlap"]
    assert left_out.message == (
        "1 training rows were left out because their text is also among the validation or test rows."
    )
    assert left_out.lines == ("4: Write a post.",)


def test_chats_that_begin_alike_are_all_used() -> None:
    def talks(name: str, count: int) -> list[Passage]:
        hello = ["Hello" if n % 10 < 7 else f"Hello from {name} {n}" for n in range(count)]
        return chats(*([text, "How can I help?", f"{name} {n}", "So."] for n, text in enumerate(hello)))

    found = parted(talks("a", 400), talks("b", 60))
    assert (sizes(found), found.left_out) == ([360, 40, 60], 0)
    notes = [finding.message for finding in found.findings if finding.code == "PromptsRepeat"]
    assert [message.split(" rows of ")[0] for message in notes] == ["280 of 400", "42 of 60"]


def test_a_question_with_several_answers_stays_on_one_side() -> None:
    train = chats(*([f"Question {n // 4}", f"Answer {n}"] for n in range(400)))
    found = parted(train)
    questions = [{row.given for row in rows.first(1000)} for rows in found.splits.values()]
    assert not questions[0] & questions[1]
    assert not (questions[0] | questions[1]) & questions[2]
    assert warnings(found) == {}


def test_a_question_that_is_tested_is_left_out_and_the_message_says_how() -> None:
    train = chats(*([f"Question {n}", f"Answer {n}"] for n in range(50)))
    found = parted(train, chats(["Question 1", "No answer"], ["Question 2", "No answer"]))
    assert found.left_out == 2
    assert warnings(found)["Overlap"].message == (
        "2 training rows were left out because their prompt, which precedes the first learnt text, is also"
        " among the validation or test rows."
    )
    found = parted(train, chats(["Question 1", "No answer"], ["Question 2", "Answer 2"]))
    assert "the whole text of 1 and only the prompt of 1, which" in warnings(found)["Overlap"].message


def test_questions_that_are_all_tested_hold_whole_rows_apart() -> None:
    train = chats(*([f"Question {n % 15}", f"Answer {n}"] for n in range(150)))
    found = parted(train, chats(*([f"Question {n}", "Another answer"] for n in range(15))))
    assert (found.left_out, len(found.splits["test"])) == (0, 15)
    assert [(note.code, note.count) for note in found.findings] == [
        ("PromptsRepeat", 150),
        ("PromptsRepeat", 15),
    ]


def test_rows_that_are_all_the_same_cannot_be_split() -> None:
    with pytest.raises(StageFailure, match="The rows differ in 1 texts or prompts") as caught:
        parted(chats(*(["Write a post.", "The post"] for _ in range(40))))
    assert caught.value.reason == "SplitTooSmall"
