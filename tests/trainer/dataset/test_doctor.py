from collections.abc import Iterable

import pytest

from finetune_trainer.dataset import doctor
from finetune_trainer.dataset.doctor import Source
from finetune_trainer.dataset.findings import Finding
from finetune_trainer.dataset.rows import open_rows
from finetune_trainer.tasks.text_classification.preparing import LabelledText


def read(line: int, values: dict[str, str]) -> LabelledText | str:
    if absent(values):
        return "lacks a column"
    return LabelledText(line, values["text"], values["label"])


def absent(there: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in ("text", "label") if name not in there)


def source(text: str, name: str = "rows.jsonl") -> Source:
    return doctor.read_source(f"s3://data/{name}", open_rows([text.encode()], name), read)


def check(text: str, max_bad: float = 0.01, **options: str) -> list[Finding]:
    return doctor.check_source(source(text, **options), absent, max_bad)


def rows(*pairs: tuple[str, str]) -> list[LabelledText]:
    return [LabelledText(line, text, label) for line, (text, label) in enumerate(pairs, start=1)]


def test_missing_columns_name_those_that_are_there() -> None:
    (finding,) = check("body,queue\na,b\n", name="rows.csv")
    assert (finding.level, finding.code) == ("error", "ColumnsMissing")
    assert "'text' and no 'label'; it has body, queue" in finding.message


@pytest.mark.parametrize(
    ("text", "name"), [("", "rows.jsonl"), ("\n\n", "rows.jsonl"), ("text,label\n", "rows.csv")]
)
def test_no_rows_is_an_error(text: str, name: str) -> None:
    assert [finding.code for finding in check(text, name=name)] == ["NoRows"]


def test_bad_rows_up_to_the_allowed_share_are_a_warning_and_above_it_an_error() -> None:
    text = '{"text": "a", "label": "b"}\n' * 9 + "nonsense\n"
    (warning,) = check(text, max_bad=0.1)
    assert (warning.level, warning.code, warning.count) == ("warning", "BadRows", 1)
    assert warning.lines[0].startswith("10: is not JSON")
    (error,) = check(text, max_bad=0.09)
    assert (error.level, error.code) == ("error", "TooManyBadRows")
    assert "line 10 is not JSON" in error.message


def test_a_hundred_bad_rows_are_listed_and_all_are_counted() -> None:
    (error,) = check("nonsense\n" * 250)
    assert (error.count, len(error.lines)) == (250, 100)


def test_rows_whose_text_is_held_out_are_left_out_of_training() -> None:
    kept, left_out = doctor.without_overlap(rows(("A  cat", "x"), ("a dog", "x")), rows(("a CAT", "y")))
    assert [row.text for row in kept] == ["a dog"]
    assert [row.text for row in left_out] == ["A  cat"]


def test_rows_that_repeat_another_are_counted() -> None:
    (found,) = doctor.duplicates(rows(("a", "x"), ("A", "y"), ("b", "x"), ("b", "x"), ("c", "x")), "s3://d/f")
    assert (found.code, found.count) == ("Duplicates", 2)
    assert found.lines == ("1, 2: same text", "3, 4: same text")


def test_few_test_rows_are_said_to_tell_little() -> None:
    assert [finding.code for finding in doctor.few_test_rows(99)] == ["FewTestRows"]
    assert doctor.few_test_rows(100) == []
