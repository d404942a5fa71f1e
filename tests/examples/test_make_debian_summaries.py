import json
from pathlib import Path
from typing import Any

import pytest

from examples import make_debian_summaries
from examples.make_debian_summaries import LONGEST, SHORTEST, TASK, TEST, TRAIN, VALIDATION, row


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rows")
    make_debian_summaries.make(folder)
    return folder


def test_the_first_paragraph_is_the_question_and_the_short_description_the_answer() -> None:
    paragraph = "Shows the time. " * 8
    made = row({"package": "xclock", "text": f"a clock\n{paragraph}\nAnd the date.", "label": "x11"})
    assert made == {
        "messages": [
            {"role": "system", "content": TASK},
            {"role": "user", "content": paragraph},
            {"role": "assistant", "content": "a clock"},
        ],
        "package": "xclock",
    }


@pytest.mark.parametrize("text", ["a clock", "a clock\nToo short.", "a clock\n" + "x" * (LONGEST + 1)])
def test_a_paragraph_of_another_length_makes_no_row(text: str) -> None:
    assert row({"package": "xclock", "text": text}) is None


def test_the_files_have_the_promised_numbers_of_rows(made: Path) -> None:
    counts = {file.stem: len(read(file)) for file in made.iterdir()}
    assert counts == {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def test_no_package_and_no_question_is_in_two_files(made: Path) -> None:
    packages = [{row["package"] for row in read(file)} for file in made.iterdir()]
    questions = [{row["messages"][1]["content"] for row in read(file)} for file in made.iterdir()]
    for parts in (packages, questions):
        assert len(set.union(*parts)) == sum(map(len, parts))


def test_every_question_has_the_wanted_length(made: Path) -> None:
    for file in made.iterdir():
        assert all(SHORTEST <= len(row["messages"][1]["content"]) <= LONGEST for row in read(file))


def test_the_same_rows_give_the_same_files(made: Path, tmp_path: Path) -> None:
    make_debian_summaries.make(tmp_path)
    for file in made.iterdir():
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()
