"""The report of a text classifier, and the records that the report is made of. Pure."""

from collections.abc import Iterator, Sequence

from finetune_trainer.data import tokenise
from finetune_trainer.report.markdown import cell, listed
from finetune_trainer.report.markup import Section
from finetune_trainer.report.record import TrainingRecord
from finetune_trainer.tasks.base import EvaluationInputs, Predictions
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.metrics import flips, predicted_classes, true_classes
from finetune_trainer.tasks.text_classification.record import (
    ClassificationFacts,
    ProbeFacts,
    class_rows,
    confusions,
    examples,
    lines,
)
from finetune_trainer.tasks.text_classification.sections import sections_of

PIPELINE = "text-classification"
AUTO = "AutoModelForSequenceClassification"
_MOST_CLASSES = 100
_FEW_ROWS = 10


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
            lambda row: tokenise.decoded(tokenizer, test.row(row)),
        ),
    )


def prediction_lines(inputs: EvaluationInputs, baseline: Probe, predictions: Predictions) -> Iterator[str]:
    """One JSON line for each test row, with the tuned model's probability of every class."""
    test = inputs.prepared.test
    predicted = predicted_classes(baseline, predictions)
    return lines(test.locations(), true_classes(test), predicted, predictions, inputs.prepared.labels)


def kind(record: TrainingRecord) -> str:
    """What the model is."""
    return f"A text classifier with {len(_facts(record).labels)} classes"


def results(record: TrainingRecord) -> str:
    """What the linear probe is, and how the two differ row by row."""
    facts = _facts(record)
    return (
        "The linear probe is a logistic regression on the frozen, mean-pooled features of the base model "
        f"({facts.probe.rows} training rows, C = {facts.probe.strength:g} chosen on validation rows). "
        f"Against it, this model has {facts.fixed} test rows right that the probe has wrong, and "
        f"{facts.broken} wrong that the probe has right. All predictions are in "
        "`evaluation/predictions.jsonl`, confusion matrices in `report.json`."
    )


def details(record: TrainingRecord) -> str:
    """The classes, largest first."""
    rows = _facts(record).classes["tuned"]
    shown = sorted(rows, key=lambda row: -row.support)[:_MOST_CLASSES]
    lines = ["| class | precision | recall | F1 | test rows |", "|---|---|---|---|---|"]
    lines += [
        f"| {cell(row.label)} | {row.precision:.3f} | {row.recall:.3f} | {row.f1:.3f} | {row.support} |"
        for row in shown
    ]
    left = len(rows) - len(shown)
    more = f"\n\nThe {left} rarest classes are in `report.json`." if left else ""
    return "## Classes\n\n" + "\n".join(lines) + more


def use(record: TrainingRecord) -> str:
    """Python that classifies a text."""
    return (
        "from transformers import pipeline\n\n"
        'classify = pipeline("text-classification", model="path/to/this/folder")\n'
        'classify("...")'
    )


def limits(record: TrainingRecord) -> list[str]:
    """What a user must not expect of a classifier."""
    rare = [row.label for row in _facts(record).classes["tuned"] if 0 < row.support < _FEW_ROWS]
    notes = [
        (
            "It knows only the classes above and answers with one of them for every text, also for one that "
            "belongs to none."
        ),
        (
            "The figures hold for texts like the test rows. The bootstrap covers the choice of test rows, "
            "not another seed, another split, or a change of what people write."
        ),
        "Its probabilities were not calibrated.",
    ]
    if rare:
        notes.append(f"Classes with fewer than 10 test rows, whose figures say little: {listed(rare)}.")
    return notes


def sections(record: TrainingRecord) -> Sequence[Section]:
    """Classes, confusions and examples; nothing for a record without them."""
    return sections_of(_facts(record)) if record.task else ()


def _facts(record: TrainingRecord) -> ClassificationFacts:
    return ClassificationFacts.model_validate(record.task)
