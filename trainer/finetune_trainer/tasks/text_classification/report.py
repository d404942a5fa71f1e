"""PURE: the report of a text classifier, and its part of the training record."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_trainer.data import tokenise
from finetune_trainer.report.markdown import join_texts
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import Section
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.metrics import count_flips, predicted_classes, true_classes
from finetune_trainer.tasks.text_classification.record import (
    EXAMPLES,
    ClassificationFacts,
    ClassRow,
    Kind,
    ProbeFacts,
    build_class_rows,
    build_confusions,
    format_prediction_lines,
    select_examples,
)

PIPELINE = "text-classification"
AUTO_CLASS = "AutoModelForSequenceClassification"
CARD = "tasks/text_classification/card.md.j2"
_SECTIONS = "tasks/text_classification/report.html.j2"
_FEW_ROWS = 10
_CARD_CLASSES, _CLASSES, _MATRIX, _PAIRS = 100, 50, 30, 10
_SHADES = 8
"""Classes `r1` to `r8` and `e1` to `e8` of report.css."""
_KINDS: dict[Kind, tuple[str, str]] = {
    "fixed": ("Fixed", "The linear probe answers these rows wrong, this model answers them right."),
    "broken": ("Broken", "The linear probe answers these rows right, this model answers them wrong."),
    "wrong": (
        "Still wrong",
        "Both models answer these rows wrong. If this model is sure of its answer, check the label first.",
    ),
}


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix."""

    rows: int
    shade: str
    """CSS class: `r` for correct predictions or `e` for errors, then the share of the row in eighths."""


@dataclass(frozen=True)
class MixUp:
    """Test rows of one class for which this model predicts another class."""

    true: str
    given: str
    rows: int
    share: float
    """Relative to the most frequent mix-up."""
    of_class: float
    """Relative to the test rows of the true class."""


def record(
    inputs: EvaluationInputs,
    baseline: Probe,
    predictions: Predictions,
    samples: Sequence[str],
    *,
    reused: bool,
) -> ClassificationFacts:
    """Creates the part of the training record: classes, confusion matrices, examples and the probe."""
    test, classes = inputs.prepared.test, inputs.prepared.labels
    truth, predicted = true_classes(test), predicted_classes(baseline, predictions)
    tokenizer = tokenise.load_tokenizer(inputs.base)
    return ClassificationFacts(
        labels=classes,
        confusion=build_confusions(truth, predicted, len(classes)),
        classes=build_class_rows(truth, predicted, classes),
        **count_flips(truth, predicted["baseline"], predicted["tuned"]),
        probe=ProbeFacts(
            strength=baseline.strength, validation=baseline.validation, rows=baseline.rows, reused=reused
        ),
        examples=select_examples(
            test.locations(),
            truth,
            predicted,
            predictions,
            classes,
            lambda row: tokenise.decode(tokenizer, test.row(row)),
        ),
    )


def prediction_lines(inputs: EvaluationInputs, baseline: Probe, predictions: Predictions) -> Iterator[str]:
    """Yields one JSON line for each test row, with the probability of every class."""
    test = inputs.prepared.test
    predicted = predicted_classes(baseline, predictions)
    return format_prediction_lines(
        test.locations(), true_classes(test), predicted, predictions, inputs.prepared.labels
    )


def serving(*, adapter: bool) -> Sequence[str]:
    """Returns the files for servers: none for an adapter, whose head the servers do not load."""
    return () if adapter else ("inference-service.yaml",)


def kind(record: TrainingRecord) -> str:
    """Returns the kind of model."""
    return f"A text classifier with {len(_read_facts(record).labels)} classes"


def results(record: TrainingRecord) -> str:
    """Describes the linear probe, and compares the predictions of both models."""
    facts = _read_facts(record)
    return (
        "The linear probe is a logistic regression on the frozen, mean-pooled features of the base model "
        f"({facts.probe.rows} training rows, C = {facts.probe.strength:g} chosen on validation rows). "
        f"This model is right on {facts.fixed} test rows that the probe has wrong, and wrong on "
        f"{facts.broken} test rows that the probe has right. All predictions are in "
        "`evaluation/predictions.jsonl`, and the confusion matrices are in `report.json`."
    )


def limits(record: TrainingRecord) -> list[str]:
    """Returns the limits of a classifier."""
    rare = [row.label for row in _read_facts(record).classes["tuned"] if 0 < row.support < _FEW_ROWS]
    notes = [
        (
            "The model knows only the classes of its training rows. It answers every text with one of these "
            "classes, also a text that belongs to none."
        ),
        (
            "The figures hold for texts like the test rows. The bootstrap covers the choice of test rows, "
            "not another seed, another split, or a change of what people write."
        ),
        "The probabilities of the model are not calibrated.",
    ]
    if rare:
        notes.append(
            f"The figures of classes with fewer than {_FEW_ROWS} test rows say little: {join_texts(rare)}."
        )
    return notes


def card(record: TrainingRecord) -> dict[str, object]:
    """Returns the classes with the most test rows, and the number of other classes."""
    rows = _select_largest(_read_facts(record).classes["tuned"], _CARD_CLASSES)
    return {"classes": rows, "left": len(_read_facts(record).labels) - len(rows)}


def sections(record: TrainingRecord) -> Sequence[Section]:
    """Returns the sections for classes, confusions and examples; empty for a record without this task."""
    if not record.task:
        return ()
    facts = _read_facts(record)
    found = [
        Section("classes", "Classes", _SECTIONS, _class_values(facts)),
        Section("confusions", "Confusions", _SECTIONS, _confusion_values(facts)),
    ]
    if facts.examples:
        found.append(Section("examples", "Examples", _SECTIONS, _example_values(facts)))
    return found


def _read_facts(record: TrainingRecord) -> ClassificationFacts:
    return ClassificationFacts.model_validate(record.task)


def _select_largest(rows: Sequence[ClassRow], most: int) -> list[ClassRow]:
    return sorted(rows, key=lambda row: -row.support)[:most]


def _class_values(facts: ClassificationFacts) -> dict[str, object]:
    tuned = _select_largest(facts.classes["tuned"], _CLASSES)
    before = {row.label: row for row in facts.classes["baseline"]}
    pairs = [(row, before[row.label]) for row in tuned]
    return {"rows": pairs, "left": len(facts.labels) - len(pairs)}


def _confusion_values(facts: ClassificationFacts) -> dict[str, object]:
    matrix = facts.confusion["tuned"]
    support = [sum(row) for row in matrix]
    shown = sorted(sorted(range(len(matrix)), key=lambda number: -support[number])[:_MATRIX])
    return {
        "pairs": _find_mix_ups(facts),
        "labels": [facts.labels[index] for index in shown],
        "cells": [_build_cells(matrix[index], index, shown) for index in shown],
        "classes": len(matrix),
    }


def _find_mix_ups(facts: ClassificationFacts) -> list[MixUp]:
    """Returns the most frequent pairs of true and wrongly predicted class."""
    matrix = facts.confusion["tuned"]
    pairs = [
        (rows, true, given)
        for true, line in enumerate(matrix)
        for given, rows in enumerate(line)
        if rows and true != given
    ]
    top = sorted(pairs, key=lambda pair: (-pair[0], pair[1:]))[:_PAIRS]
    return [
        MixUp(
            facts.labels[true],
            facts.labels[given],
            rows,
            share=rows / top[0][0],
            of_class=rows / sum(matrix[true]),
        )
        for rows, true, given in top
    ]


def _build_cells(row: Sequence[int], true: int, shown: Sequence[int]) -> list[Cell]:
    """Builds a row of the matrix; the last cell counts predictions of classes that are not shown."""
    cells = [_build_cell(row[given], sum(row), "r" if given == true else "e") for given in shown]
    if len(shown) < len(row):
        cells.append(_build_cell(sum(row) - sum(row[given] for given in shown), sum(row), "e"))
    return cells


def _build_cell(rows: int, of: int, kind: str) -> Cell:
    return Cell(rows, f"{kind}{max(1, round(_SHADES * rows / of))}" if rows else "")


def _example_values(facts: ClassificationFacts) -> dict[str, object]:
    groups = [
        (title, meaning, [row for row in facts.examples if row.kind == kind])
        for kind, (title, meaning) in _KINDS.items()
    ]
    return {
        "fixed": facts.fixed,
        "broken": facts.broken,
        "most": EXAMPLES,
        "groups": [group for group in groups if group[2]],
    }
