"""Text classification: loss, predictions, and the linear probe as baseline."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.config import Training
from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.class_layer import find_class_layer
from finetune_trainer.models.collate import IGNORE_INDEX, pad_batch, select_rows
from finetune_trainer.models.load import load_saved
from finetune_trainer.models.packing import Packing
from finetune_trainer.report.record import HeadInit
from finetune_trainer.tasks.base import (
    Baseline,
    Evaluate,
    EvaluationInputs,
    HeadStart,
    Numbers,
    OnProgress,
    Tensors,
)
from finetune_trainer.tasks.text_classification import head_start as starts
from finetune_trainer.tasks.text_classification import probe
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.class_weights import class_weights
from finetune_trainer.tasks.text_classification.classifier import (
    classify,
    load_body,
    load_classifier,
    pool_mean,
)
from finetune_trainer.tasks.text_classification.metrics import true_classes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRIC_CODE = "2"
"""Version of the metrics and of the linear probe."""
FORWARD: dict[str, Any] = {}


def load(folder: Path, prepared: Prepared, dtype: torch.dtype) -> "PreTrainedModel":
    """Loads the base model with a classification head.

    Raises:
        StageFailure: UserConfig if the architecture has no classifier or the files lack weights of the body.
    """
    return load_classifier(folder, prepared.labels, dtype)


def head(model: "PreTrainedModel") -> tuple[str, ...]:
    """Returns the modules outside the body, and the pooler, which some pretrained models lack."""
    body = model.base_model_prefix
    own = [
        name
        for name, module in model.named_children()
        if name != body and any(True for _ in module.parameters())
    ]
    poolers = [name for name, module in model.named_modules() if name.endswith(".pooler")]
    return (*own, *poolers)


def load_published(folder: Path, base: Path | None, dtype: torch.dtype) -> torch.nn.Module:
    """Loads a tuned classifier.

    Raises:
        StageFailure: Internal if the files do not make exactly this model.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    return load_saved(AutoModelForSequenceClassification, folder, base, dtype)


def collate(split: Split, numbers: Numbers, pad_id: int, packing: Packing | None) -> Tensors:
    """Pads rows, and adds the classes as `labels`, shape [rows]. Encoders do not support packed rows."""
    labels = [IGNORE_INDEX if number == FILLER else int(split.labels[number]) for number in numbers]
    return {
        **pad_batch(split, numbers, pad_id),
        "labels": torch.tensor(labels),
        "row_index": torch.arange(len(labels)),
    }


def loss_function(
    training: Training, prepared: Prepared, device: torch.device
) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Returns the cross entropy of each row, multiplied by the weight of the class.

    The loss of a batch is the sum of the losses over the number of rows. The mean weight of the training rows
    is 1, so that the loss of a batch is an unbiased estimate, and does not depend on micro-batches.
    """
    weights = class_weights(training.class_weights, prepared.train.labels, len(prepared.labels))
    return partial(losses, weights=None if weights is None else torch.from_numpy(weights).float().to(device))


def losses(outputs: Any, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Computes the cross entropy of each row, 0 for IGNORE_INDEX, shape [rows].

    Args:
        outputs: outputs of the model with logits, shape [rows, classes].
        labels: class of each row or IGNORE_INDEX, shape [rows].
        weights: factor of the loss of each class, on the device of the logits, shape [classes].
    """
    return cross_entropy(
        outputs.logits.float(), labels, weight=weights, reduction="none", ignore_index=IGNORE_INDEX
    )


def predict(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Computes the logits of each row, shape [rows, classes]."""
    return classify(model, inputs)


def logits(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Computes the logits of each row, shape [rows, classes]."""
    return classify(model, inputs)


def verified_rows(model: torch.nn.Module, split: Split) -> int:
    """Returns the number of rows: all rows are verified."""
    return len(split)


def load_for_baseline(inputs: EvaluationInputs) -> torch.nn.Module:
    """Loads the base model without a head, for the features of the linear probe."""
    return load_body(inputs.base, inputs.dtype)


def packing_of(model: torch.nn.Module) -> Packing | None:
    """Returns None, because encoders do not support packed rows."""
    return None


def measure_baseline(
    inputs: EvaluationInputs,
    baseline: Baseline,
    model: Any,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> Probe:
    """Measures the majority class and the linear probe on the test rows."""
    prepared, key = inputs.prepared, baseline.key
    train = select_rows(prepared.train, probe.draw_probe_rows(true_classes(prepared.train), key.seed))
    splits = (train, prepared.validation, prepared.test)
    features = _compute_features(
        partial(pool_mean, model), splits, evaluate, partial(_report_part, on_progress, 0.0, 0.9)
    )
    found = probe.fit_linear_probe(
        (features[0], true_classes(train)),
        (features[1], true_classes(prepared.validation)),
        classes=len(prepared.labels),
        metric=key.primary_metric,
        peers=evaluate.peers,
        on_progress=partial(_report_part, on_progress, 0.9, 1.0),
    )
    return Probe(
        key=key,
        test_rows=len(prepared.test),
        majority=probe.find_most_frequent_class(true_classes(prepared.train)),
        strength=found.strength,
        validation=found.validation,
        rows=found.rows,
        predictions=tuple(found.classifier.predict(torch.from_numpy(features[2])).tolist()),
    )


def head_start(
    inputs: EvaluationInputs,
    training: Training,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> HeadStart | None:
    """Fits a linear probe on the inputs of the last linear layer of the head, and returns the head's weights.

    Returns None for `headInit: Random`, and for a base model whose head is kept.
    """
    if training.head_init == "Random":
        return None
    prepared, classes = inputs.prepared, len(inputs.prepared.labels)
    model: Any = load(inputs.base, prepared, inputs.dtype)
    layer = find_class_layer(model)
    if model.head_kept or layer is None:
        return None
    train = select_rows(prepared.train, probe.draw_probe_rows(true_classes(prepared.train), inputs.seed))
    with starts.bypass_layer(model, layer), evaluate.ready(model):
        features = _compute_features(
            partial(classify, model),
            (train, prepared.validation),
            evaluate,
            partial(_report_part, on_progress, 0.0, 0.9),
        )
    linear = model.get_submodule(layer)
    found = probe.fit_linear_probe(
        (features[0], true_classes(train)),
        (features[1], true_classes(prepared.validation)),
        classes=classes,
        metric=inputs.evaluation.primary_metric,
        peers=evaluate.peers,
        bias=linear.bias is not None,
        class_weights=class_weights(training.class_weights, prepared.train.labels, classes),
        on_progress=partial(_report_part, on_progress, 0.9, 1.0),
    )
    return HeadStart(
        weights=starts.build_head_weights(model, head(model), layer, found.classifier),
        init=HeadInit(strength=found.strength, validation=found.validation, rows=found.rows),
    )


def read_baseline(document: bytes) -> Probe:
    """Reads a stored baseline.

    Raises:
        ValidationError: the document is not a baseline of this task.
    """
    return Probe.model_validate_json(document)


def samples(inputs: EvaluationInputs, model: torch.nn.Module) -> tuple[str, ...]:
    """Returns no texts, because a classifier generates no text."""
    return ()


def _compute_features(
    compute: Callable[[Tensors], torch.Tensor],
    splits: tuple[Split, ...],
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> list[npt.NDArray[np.float32]]:
    """Computes the features of each split with all ranks, each of shape [rows, width]."""
    every, before = sum(len(split) for split in splits), 0
    features = []
    for split in splits:
        share = partial(_report_part, on_progress, before / every, (before + len(split)) / every)
        features.append(evaluate(compute, split, share))
        before += len(split)
    return features


def _report_part(on_progress: OnProgress, before: float, after: float, share: float) -> None:
    """Reports the progress of a part, which covers the interval from `before` to `after`."""
    on_progress(before + (after - before) * share)
