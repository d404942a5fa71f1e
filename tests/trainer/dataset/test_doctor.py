import pytest

from finetune_trainer.config import Columns
from finetune_trainer.dataset import doctor
from finetune_trainer.dataset.doctor import Finding, Source
from finetune_trainer.dataset.rows import open_rows
from finetune_trainer.tasks.text_classification import Example


def source(text: str, name: str = "rows.jsonl") -> Source:
    return doctor.read_source(f"s3://data/{name}", open_rows([text.encode()], name), Columns())


def check(text: str, max_bad: float = 0.01, **options: str) -> list[Finding]:
    return doctor.check_source(source(text, **options), Columns(), max_bad)


def rows(*pairs: tuple[str, str]) -> list[Example]:
    return [Example(line, text, label) for line, (text, label) in enumerate(pairs, start=1)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": "", "label": "a"}', "'text' is empty"),
        ('{"text": "  \\t", "label": "a"}', "'text' is empty"),
        ('{"text": "a", "label": " "}', "'label' is empty"),
        ('{"text": "a", "label": null}', "'label' is empty"),
        ('{"text": "a"}', "has no 'label'"),
        ('{"text": 3, "label": "a"}', "'text' is a number, not a text"),
        ('{"text": ["a"], "label": "a"}', "'text' is a list, not a text"),
        ('{"text": "a", "label": {"a": 1}}', "'label' is an object, not one label"),
        ('{"text": "a\\u0000", "label": "a"}', "'text' holds a NUL or half a character"),
        ('{"text": "a\\ud800", "label": "a"}', "'text' holds a NUL or half a character"),
    ],
)
def test_a_row_without_a_text_or_a_label_is_bad_with_its_line(row: str, reason: str) -> None:
    found = source('{"text": "b", "label": "a"}\n' + row + "\n")
    assert [(bad.line, bad.reason) for bad in found.bad] == [(2, reason)]


@pytest.mark.parametrize(("label", "name"), [("3", "3"), ("1.5", "1.5"), ("true", "true"), ('" a "', "a")])
def test_a_label_may_be_a_number_or_a_truth_value(label: str, name: str) -> None:
    assert source(f'{{"text": "b", "label": {label}}}').examples[0].label == name


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


def test_duplicates_and_contradictions_are_counted() -> None:
    found = doctor.duplicates(rows(("a", "x"), ("A", "y"), ("b", "x"), ("b", "x"), ("c", "x")), "s3://d/f")
    assert [(finding.code, finding.count) for finding in found] == [
        ("Duplicates", 2),
        ("ConflictingLabels", 1),
    ]
    assert "1 is 'x', 2 is 'y'" in found[1].lines[0]


def labels(train: list[Example], test: list[Example]) -> list[str]:
    uris = {"train": "s3://d/train", "validation": "s3://d/validation", "test": "s3://d/test"}
    findings = doctor.check_labels({"train": train, "validation": [], "test": test}, uris)
    return [finding.code for finding in findings]


def many(*names: str, count: int = 100) -> list[Example]:
    return [Example(line, str(line), name) for line in range(count) for name in names]


def test_labels_are_compared_between_the_splits() -> None:
    assert labels(many("a"), many("a")) == ["SingleClass"]
    assert labels(many("a", "b"), many("a", "c")) == ["LabelUnseen"]
    assert labels(many("a", "b"), many("a")) == []
    assert labels(many("a", "b"), many("a", count=5)) == ["FewTestRows"]
    assert labels(many("Bill", "bill", "x"), many("x")) == ["LabelSpelling"]
    assert labels(many("a") + many("b", count=1), many("a")) == ["SmallClass", "Imbalance"]
