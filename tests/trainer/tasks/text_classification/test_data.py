import json

import pytest

from finetune_trainer.config import (
    Dataset,
    EvaluationSpec,
    HeldOut,
    ModelSource,
    Run,
    StoreAccess,
    Stores,
    TrainSplit,
)
from finetune_trainer.tasks.text_classification import data
from finetune_trainer.tasks.text_classification.data import LabelledText

ACCESS = StoreAccess(endpoint="https://minio:9000")
RUN = Run(
    task="TextClassification",
    model=ModelSource(uri="s3://models/encoder"),
    dataset=Dataset(
        train=TrainSplit(uri="s3://data/train.jsonl"), validation=HeldOut(split=0.1), test=HeldOut(split=0.1)
    ),
    evaluation=EvaluationSpec(metrics=("macroF1",)),
    output="s3://models/tuned/",
    runs="s3://models/runs/",
    stores=Stores(data=ACCESS, model=ACCESS, output=ACCESS),
)


def read(row: str) -> LabelledText | str:
    return data.example(7, json.loads(row), RUN)


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
def test_a_row_without_a_text_or_a_label_is_none(row: str, reason: str) -> None:
    assert read(row) == reason


@pytest.mark.parametrize(("label", "name"), [("3", "3"), ("1.5", "1.5"), ("true", "true"), ('" a "', "a")])
def test_a_label_may_be_a_number_or_a_truth_value(label: str, name: str) -> None:
    assert read(f'{{"text": "b", "label": {label}}}') == LabelledText(7, "b", name)


def test_both_columns_are_needed() -> None:
    assert data.absent(["body", "label"], RUN) == ("text",)
    assert data.absent(["label", "text"], RUN) == ()


def test_texts_with_more_than_one_label_are_named_with_their_lines() -> None:
    pairs = (("a", "x"), ("A", "y"), ("b", "x"), ("b", "x"))
    rows = [LabelledText(line, text, label) for line, (text, label) in enumerate(pairs, start=1)]
    homes = {"train": "s3://d/train", "validation": "s3://d/train", "test": "s3://d/test"}
    splits = {"train": rows[1:], "validation": rows[:1], "test": []}
    (finding, *_) = data.check_rows(splits, homes)
    assert (finding.code, finding.count) == ("ConflictingLabels", 1)
    assert "2 is 'y', 1 is 'x'" in finding.lines[0]


def labels(train: list[LabelledText], test: list[LabelledText]) -> list[str]:
    uris = {"train": "s3://d/train", "validation": "s3://d/validation", "test": "s3://d/test"}
    findings = data.check_rows({"train": train, "validation": [], "test": test}, uris)
    return [finding.code for finding in findings]


def many(*names: str, count: int = 100) -> list[LabelledText]:
    return [LabelledText(line, f"{ord(name[0])} {line}", name) for line in range(count) for name in names]


def test_labels_are_compared_between_the_splits() -> None:
    assert labels(many("a"), many("a")) == ["SingleClass"]
    assert labels(many("a", "b"), many("a", "c")) == ["LabelUnseen"]
    assert labels(many("a", "b"), many("a")) == []
    assert labels(many("Bill", "bill", "x"), many("x")) == ["LabelSpelling"]
    assert labels(many("a") + many("b", count=1), many("a")) == ["SmallClass", "Imbalance"]
