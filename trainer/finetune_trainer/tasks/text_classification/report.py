"""The report of a text classifier, and the records that the report is made of. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from finetune_trainer.data import tokenise
from finetune_trainer.report.markdown import listed
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.report.rendering import Section
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.metrics import flips, predicted_classes, true_classes
from finetune_trainer.tasks.text_classification.record import (
    EXAMPLES,
    ClassificationFacts,
    ClassRow,
    Kind,
    ProbeFacts,
    class_rows,
    confusions,
    examples,
    lines,
)

PIPELINE = "text-classification"
AUTO = "AutoModelForSequenceClassification"
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
    """CSS class: `r` for right answers or `e` for errors, then the share of the row in eighths."""


@dataclass(frozen=True)
class MixUp:
    """Test rows of one class that this model takes for another class."""

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
    """Classes, confusion matrices, flips, examples and the probe."""
    test, classes = inputs.prepared.test, inputs.prepared.labels
    truth, predicted = true_classes(test), predicted_classes(baseline, predictions)
    tokenizer = tokenise.load_tokenizer(inputs.base)
    return ClassificationFacts(
        labels=classes,
        confusion=confusions(truth, predicted, len(classes)),
        classes=class_rows(truth, predicted, classes),
        **flips(truth, predicted["baseline"], predicted["tuned"]),
        probe=ProbeFacts(
            strength=baseline.strength, validation=baseline.validation, rows=baseline.rows, reused=reused
        ),
        examples=examples(
            test.locations(),
            truth,
            predicted,
            predictions,
            classes,
            lambda row: tokenise.decode(tokenizer, test.row(row)),
        ),
    )


def prediction_lines(inputs: EvaluationInputs, baseline: Probe, predictions: Predictions) -> Iterator[str]:
    """One JSON line for each test row, with the tuned model's probability of every class."""
    test = inputs.prepared.test
    predicted = predicted_classes(baseline, predictions)
    return lines(test.locations(), true_classes(test), predicted, predictions, inputs.prepared.labels)


def kind(record: TrainingRecord) -> str:
    """The kind of model."""
    return f"A text classifier with {len(_facts(record).labels)} classes"


def results(record: TrainingRecord) -> str:
    """What the linear probe is, and how the two differ row by row."""
    facts = _facts(record)
    return (
        "The linear probe is a logistic regression on the frozen, mean-pooled features of the base model "
        f"({facts.probe.rows} training rows, C = {facts.probe.strength:g} chosen on validation rows). "
        f"This model is right on {facts.fixed} test rows that the probe has wrong, and wrong on "
        f"{facts.broken} test rows that the probe has right. All predictions are in "
        "`evaluation/predictions.jsonl`, and the confusion matrices are in `report.json`."
    )


def limits(record: TrainingRecord) -> list[str]:
    """What a user must not expect of a classifier."""
    rare = [row.label for row in _facts(record).classes["tuned"] if 0 < row.support < _FEW_ROWS]
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
            f"The figures of classes with fewer than {_FEW_ROWS} test rows say little: {listed(rare)}."
        )
    return notes


def card(record: TrainingRecord) -> dict[str, object]:
    """The classes with most test rows, largest first, and the number of the others."""
    rows = _largest(_facts(record).classes["tuned"], _CARD_CLASSES)
    return {"classes": rows, "left": len(_facts(record).labels) - len(rows)}


def sections(record: TrainingRecord) -> Sequence[Section]:
    """Classes, confusions and examples; empty for a record without the part of the task."""
    if not record.task:
        return ()
    facts = _facts(record)
    found = [
        Section("classes", "Classes", _SECTIONS, _classes(facts)),
        Section("confusions", "Confusions", _SECTIONS, _confusions(facts)),
    ]
    if facts.examples:
        found.append(Section("examples", "Examples", _SECTIONS, _examples(facts)))
    return found


def _facts(record: TrainingRecord) -> ClassificationFacts:
    return ClassificationFacts.model_validate(record.task)


def _largest(rows: Sequence[ClassRow], most: int) -> list[ClassRow]:
    return sorted(rows, key=lambda row: -row.support)[:most]


def _classes(facts: ClassificationFacts) -> dict[str, object]:
    tuned = _largest(facts.classes["tuned"], _CLASSES)
    before = {row.label: row for row in facts.classes["baseline"]}
    pairs = [(row, before[row.label]) for row in tuned]
    return {"rows": pairs, "left": len(facts.labels) - len(pairs)}


def _confusions(facts: ClassificationFacts) -> dict[str, object]:
    matrix = facts.confusion["tuned"]
    support = [sum(row) for row in matrix]
    shown = sorted(sorted(range(len(matrix)), key=lambda number: -support[number])[:_MATRIX])
    return {
        "pairs": _pairs(facts),
        "labels": [facts.labels[place] for place in shown],
        "cells": [_cells(matrix[place], place, shown) for place in shown],
        "classes": len(matrix),
    }


def _pairs(facts: ClassificationFacts) -> list[MixUp]:
    """The most frequent mix-ups."""
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


def _cells(row: Sequence[int], true: int, shown: Sequence[int]) -> list[Cell]:
    """The row of a class in the matrix; the last cell counts the answers that name a class not shown."""
    cells = [_cell(row[given], sum(row), "r" if given == true else "e") for given in shown]
    if len(shown) < len(row):
        cells.append(_cell(sum(row) - sum(row[given] for given in shown), sum(row), "e"))
    return cells


def _cell(rows: int, of: int, kind: str) -> Cell:
    return Cell(rows, f"{kind}{max(1, round(_SHADES * rows / of))}" if rows else "")


def _examples(facts: ClassificationFacts) -> dict[str, object]:
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
