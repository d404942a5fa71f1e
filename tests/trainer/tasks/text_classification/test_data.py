import json

import numpy as np
import pytest

from finetune_trainer.data.findings import Finding, SplitName
from finetune_trainer.data.rows import RowSubset, Strata
from finetune_trainer.tasks.text_classification import data
from finetune_trainer.tasks.text_classification.data import LabelledText
from tests.trainer.data.kept import kept
from tests.trainer.runs import CLASSIFICATION


def read(row: str) -> LabelledText | str:
    return data.example(7, json.loads(row), CLASSIFICATION)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"text": "", "label": "a"}', "'text' is empty"),
        ('{"text": "  \\t", "label": "a"}', "'text' is empty"),
        ('{"text": "a", "label": " "}', "'label' is empty"),
        ('{"text": "a", "label": null}', "'label' is empty"),
        ('{"text": "a", "label": NaN}', "'label' is NaN or invisible: a missing label"),
        ('{"text": "a", "label": "nan"}', "'label' is NaN or invisible: a missing label"),
        ('{"text": "a", "label": "\\u200b"}', "'label' is NaN or invisible: a missing label"),
        ('{"text": "a", "label": Infinity}', "'label' is an infinite number"),
        ('{"text": "a"}', "has no 'label'"),
        ('{"text": 3, "label": "a"}', "'text' is a number, not a text"),
        ('{"text": ["a"], "label": "a"}', "'text' is a list, not a text"),
        ('{"text": "a", "label": {"a": 1}}', "'label' is an object, not one label"),
        ('{"text": "a\\u0000", "label": "a"}', "'text' holds a NUL or half a character"),
        ('{"text": "a\\ud800", "label": "a"}', "'text' holds a NUL or half a character"),
    ],
)
def test_a_row_without_a_text_or_a_label_is_none(row: str, reason: str) -> None:
    assert read(row) == reason


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("3", "3"),
        ("1.5", "1.5"),
        ("1.0", "1"),
        ("-0.0", "0"),
        ("1e300", "1e+300"),
        ("true", "true"),
        ("false", "false"),
        ('" a "', "a"),
        ('"True"', "true"),
        ('"FALSE"', "false"),
        ('"1.0"', "1"),
        ('"1.50"', "1.50"),
        ('"01"', "01"),
        ('"None"', "None"),
        ('"B\\u00fcro"', "B\u00fcro"),
        ('"Bu\\u0308ro"', "B\u00fcro"),
        ('"\\ufeffB\\u00fc\\u200bro\\u200d "', "B\u00fcro"),
        ('"a\\u200db"', "a\u200db"),
    ],
)
def test_a_label_may_be_a_number_or_a_truth_value(label: str, name: str) -> None:
    assert read(f'{{"text": "b", "label": {label}}}') == LabelledText(7, "b", name)


def test_both_columns_are_needed() -> None:
    assert data.missing_columns(["body", "label"], CLASSIFICATION) == ("text",)
    assert data.missing_columns(["label", "text"], CLASSIFICATION) == ()


def test_texts_with_more_than_one_label_are_named_with_their_lines() -> None:
    pairs = (("a", "x"), ("A", "y"), ("b", "x"), ("b", "x"))
    rows = [LabelledText(line, text, label) for line, (text, label) in enumerate(pairs, start=1)]
    homes = {"train": "s3://d/train", "validation": "s3://d/train", "test": "s3://d/test"}
    every = kept(rows)
    splits = {
        "train": RowSubset(every, np.array([1, 2, 3], np.uint32)),
        "validation": RowSubset(every, np.array([0], np.uint32)),
        "test": kept([]).all_rows(),
    }
    (finding, *_) = data.check_rows(splits, homes)
    assert (finding.code, finding.count) == ("ConflictingLabels", 1)
    assert "1 is 'x', 2 is 'y'" in finding.lines[0]


def found(train: list[LabelledText], test: list[LabelledText]) -> list[Finding]:
    uris: dict[SplitName, str] = {
        "train": "s3://d/train",
        "validation": "s3://d/validation",
        "test": "s3://d/test",
    }
    names = Strata()
    splits: dict[SplitName, list[LabelledText]] = {"train": train, "validation": [], "test": test}
    parts = {name: kept(examples, names).all_rows() for name, examples in splits.items()}
    return data.check_rows(parts, uris)


def labels(train: list[LabelledText], test: list[LabelledText]) -> list[str]:
    return [finding.code for finding in found(train, test)]


def many(*names: str, count: int = 100) -> list[LabelledText]:
    lines = iter(range(10_000))
    return [LabelledText(next(lines), f"{ord(name[0])} {n}", name) for n in range(count) for name in names]


def test_labels_are_compared_between_the_splits() -> None:
    assert labels(many("a"), many("a")) == ["SingleClass"]
    assert labels(many("a", "b"), many("a", "c")) == ["LabelUnseen"]
    assert labels(many("a", "b"), many("a")) == []
    assert labels(many("Bill", "bill", "x"), many("x")) == ["LabelSpelling"]
    assert labels(many("a") + many("b", count=1), many("a")) == ["SmallClass", "Imbalance"]
    assert labels(many("01", "1", "x"), many("x")) == ["LabelSpelling"]
    assert labels(many("Billing", "\N{CYRILLIC CAPITAL LETTER VE}illing", "x"), many("x")) == [
        "LabelSpelling"
    ]
    assert labels(many("\N{GREEK SMALL LETTER ALPHA}", "b", "x"), many("x")) == []


def test_a_label_of_another_form_is_named_beside_the_training_labels() -> None:
    (finding,) = found(many("Bill", "yes"), many("bill", count=2))
    assert finding.message == (
        "2 test rows of s3://d/test have labels that no training row has (1 different; line 0, 1). 1 of them"
        " differ only in their form (letter case, width, spaces, letters of another alphabet, format of a"
        " number) from labels of the training rows. The training rows have 2 labels; the data report shows"
        " the labels of both."
    )
    assert finding.lines == (
        "0: bill",
        "1: bill",
        "training label 'Bill': 100 training rows",
        "training label 'yes': 100 training rows",
    )
    (finding,) = found(many("a", "b"), many("c"))
    assert "form" not in finding.message


def rows(column: list[object]) -> list[LabelledText]:
    read = [
        data.example(line, {"text": f"text {line}", "label": label}, CLASSIFICATION)
        for line, label in enumerate(column, start=1)
    ]
    return [row for row in read if isinstance(row, LabelledText)]


def test_the_same_class_has_one_name_in_every_file() -> None:
    assert found(rows([0, 1] * 20), rows([0.0, 1.0])) == []
    assert found(rows([True, False] * 20), rows(["True", "False"])) == []
    assert {row.label for row in rows([0.0, 1.0, float("nan")])} == {"0", "1"}


def test_a_label_that_is_written_in_several_forms_is_said() -> None:
    (finding,) = found(rows(["B\u00fcro", "Bu\u0308ro", "B\u00fcro\u200b", "Lager"] * 10), [])
    assert (finding.level, finding.code) == ("warning", "LabelForms")
    assert finding.message == "1 of the labels are written in several forms, which count as one label."
    assert finding.lines == (
        r"'B\u00fcro': 'B\xfcro' 10 times, 'Bu\u0308ro' 10 times, 'B\xfcro\u200b' 10 times".replace(
            r"\u00fc", "\u00fc", 1
        ),
    )


def test_encoder_decoders_are_no_classifiers() -> None:
    known = data.model_types()
    assert {"bert", "roberta", "deberta-v2", "modernbert", "llama"} <= known
    assert not {"t5", "mt5", "umt5", "bart", "mbart"} & known
