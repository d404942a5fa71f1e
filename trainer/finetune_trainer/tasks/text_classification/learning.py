"""Text classification while it is learnt and measured: cross entropy, a linear probe to beat, F1."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.contract import Evaluation, MetricName
from finetune_trainer.data import tokenise
from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.collate import IGNORE_INDEX, padded, subset
from finetune_trainer.models.load import load_saved
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import Numbers, Tensors
from finetune_trainer.tasks.bootstrap import ModelRole
from finetune_trainer.tasks.text_classification import facts as told
from finetune_trainer.tasks.text_classification import metrics, probe
from finetune_trainer.tasks.text_classification.metrics import Predicted
from finetune_trainer.tasks.text_classification.model import classify, load_body, load_classifier, mean_pooled
from finetune_trainer.tasks.text_classification.probe import Probe
from finetune_trainer.training.baseline import BaselineKey
from finetune_trainer.training.context import Context
from finetune_trainer.training.evaluate import over_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRIC_CODE = "1"
"""Raised when the meaning of a metric or of the linear probe changes."""
FORWARD: dict[str, Any] = {}
Predictions = npt.NDArray[np.float32]
"""Logits, shape [rows, classes]."""


def load(folder: Path, prepared: Prepared) -> "PreTrainedModel":
    """The base model with a new classification head.

    Raises:
        StageFailure: UserConfig if the architecture has no classifier or the files lack weights of the body.
    """
    return load_classifier(folder, prepared.labels)


def head(model: "PreTrainedModel") -> tuple[str, ...]:
    """Everything beside the body, and the pooler, which models pretrained without sentence pairs lack."""
    body = model.base_model_prefix
    own = [
        name
        for name, module in model.named_children()
        if name != body and any(True for _ in module.parameters())
    ]
    poolers = [name for name, module in model.named_modules() if name.endswith(".pooler")]
    return (*own, *poolers)


def load_published(folder: Path, base: Path | None) -> torch.nn.Module:
    """A tuned classifier.

    Raises:
        StageFailure: Internal if the files do not make exactly this model.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    return load_saved(AutoModelForSequenceClassification, folder, base)


def collate(split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
    """Padded rows and their classes, `labels` of shape [rows]; encoders read no packed rows."""
    labels = [IGNORE_INDEX if number == FILLER else int(split.labels[number]) for number in numbers]
    return {
        **padded(split, numbers, pad_id),
        "labels": torch.tensor(labels),
        "row_index": torch.arange(len(labels)),
    }


def losses(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each row, shape [rows with a label]."""
    there = labels != IGNORE_INDEX
    return cross_entropy(outputs.logits.float()[there], labels[there], reduction="none")


def predictions(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Logits of each row, shape [rows, classes]."""
    return classify(model, inputs)


def logits(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """The same: a classifier's answer is its logits."""
    return classify(model, inputs)


def verified_rows(model: torch.nn.Module, split: Split) -> int:
    """As many as there are: a row has few logits."""
    return len(split)


def measured(metric: MetricName, predictions: Predictions, split: Split, classes: int) -> float:
    """One metric of one model."""
    return metrics.measure(_truth(split), predictions.argmax(axis=1), classes)[metric]


def measure_baseline(
    context: Context, key: BaselineKey, on_progress: Callable[[float], None]
) -> Probe | None:
    """Majority class and linear probe on the test rows."""
    prepared = context.prepared
    train = subset(prepared.train, probe.probe_rows(len(prepared.train), key.seed))
    features = _features(context, (train, prepared.validation, prepared.test), on_progress)
    if not context.gang.first:
        return None
    return probe.linear_probe(
        (features[0], _truth(train)),
        (features[1], _truth(prepared.validation)),
        features[2],
        majority=probe.most_frequent(_truth(prepared.train)),
        classes=len(prepared.labels),
        key=key,
        on_progress=lambda: on_progress(1.0),
    )


def read_baseline(document: bytes) -> Probe:
    """A stored probe.

    Raises:
        ValidationError: it is none.
    """
    return Probe.model_validate_json(document)


def evaluation(context: Context, baseline: Probe, predictions: Predictions) -> Evaluation:
    """Majority class, linear probe and tuned model on the test rows."""
    run = context.config.run
    return metrics.compare(
        _truth(context.prepared.test),
        _predicted(context, baseline, predictions),
        classes=len(context.prepared.labels),
        metrics=run.evaluation.metrics,
        primary=run.evaluation.primary_metric,
        seed=run.training.seed,
    )


def facts(
    context: Context,
    model: torch.nn.Module,
    baseline: Probe,
    predictions: Predictions,
    *,
    reused: bool,
) -> dict[str, Any]:
    """Classes, confusion matrices, flips, rows to look at and the probe."""
    test, classes = context.prepared.test, context.prepared.labels
    truth, predicted = _truth(test), _predicted(context, baseline, predictions)
    tokenizer = tokenise.load_tokenizer(context.base)
    return {
        "classification": told.ClassificationFacts(
            labels=classes,
            confusion=told.confusions(truth, predicted, len(classes)),
            classes=told.class_rows(truth, predicted, classes),
            **metrics.flips(truth, predicted["baseline"], predicted["tuned"]),
            probe=told.ProbeFacts(
                strength=baseline.strength, validation=baseline.validation, rows=baseline.rows, reused=reused
            ),
            examples=told.examples(
                test.locations(),
                truth,
                predicted,
                predictions,
                classes,
                lambda place: tokenise.decoded(tokenizer, test.row(place)),
            ),
        )
    }


def prediction_lines(context: Context, baseline: Probe, predictions: Predictions) -> Iterator[str]:
    """One JSON line a test row, with the tuned model's probability of every class."""
    test = context.prepared.test
    predicted = _predicted(context, baseline, predictions)
    return told.prediction_lines(
        test.locations(), _truth(test), predicted, predictions, context.prepared.labels
    )


def _features(
    context: Context, splits: tuple[Split, ...], on_progress: Callable[[float], None]
) -> list[npt.NDArray[np.float32]]:
    """Mean-pooled features of the base model, frozen, by all ranks together; shape [rows, hidden] each."""
    body = load_body(context.base, context.gang.device)
    every, before = sum(len(split) for split in splits), 0
    features = []
    for split in splits:
        share = partial(_advanced, on_progress, before / every, len(split) / every)
        features.append(over_rows(context, partial(mean_pooled, body), split, share))
        before += len(split)
    return features


def _advanced(on_progress: Callable[[float], None], before: float, part: float, share: float) -> None:
    on_progress(before + part * share)


def _truth(split: Split) -> Predicted:
    return split.labels.astype(np.int64)


def _predicted(context: Context, baseline: Probe, predictions: Predictions) -> dict[ModelRole, Predicted]:
    return {
        "majority": np.full(len(context.prepared.test), baseline.majority, dtype=np.int64),
        "baseline": np.array(baseline.predictions, dtype=np.int64),
        "tuned": predictions.argmax(axis=1),
    }
