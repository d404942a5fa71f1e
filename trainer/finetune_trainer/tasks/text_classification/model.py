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
from finetune_trainer.models.class_layer import class_layer
from finetune_trainer.models.collate import IGNORE_INDEX, padded, subset
from finetune_trainer.models.load import load_saved, on
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
    mean_pooled,
)
from finetune_trainer.tasks.text_classification.metrics import true_classes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRIC_CODE = "2"
"""Raised when the meaning of a metric or of the linear probe changes."""
FORWARD: dict[str, Any] = {}


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


def loss_function(training: Training, prepared: Prepared) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """Cross entropy of each row, multiplied by the weight of its class.

    The loss of a batch is the sum of these over its number of rows. The weights are 1 on average over the
    training rows, so that batches estimate the weighted loss of all rows without bias, and so that loss and
    gradient of a batch do not depend on how the batch is split.
    """
    weights = class_weights(training.class_weights, prepared.train.labels, len(prepared.labels))
    return partial(losses, weights=None if weights is None else torch.from_numpy(weights).float())


def losses(outputs: Any, labels: torch.Tensor, weights: torch.Tensor | None = None) -> torch.Tensor:
    """Cross entropy of each row, shape [rows with a label], times its class's `weights` [classes]."""
    there = labels != IGNORE_INDEX
    given = None if weights is None else weights.to(labels.device)
    return cross_entropy(outputs.logits.float()[there], labels[there], weight=given, reduction="none")


def predict(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """Logits of each row, shape [rows, classes]."""
    return classify(model, inputs)


def logits(model: torch.nn.Module, inputs: Tensors) -> torch.Tensor:
    """The same: a classifier's answer is its logits."""
    return classify(model, inputs)


def verified_rows(model: torch.nn.Module, split: Split) -> int:
    """As many as there are: a row has few logits."""
    return len(split)


def load_for_baseline(inputs: EvaluationInputs, device: torch.device) -> torch.nn.Module:
    """The base model without any head: the linear probe reads its features."""
    return load_body(inputs.base, device)


def packing_of(model: torch.nn.Module) -> Packing | None:
    """None: encoders read no packed rows."""
    return None


def measure_baseline(
    inputs: EvaluationInputs,
    baseline: Baseline,
    model: Any,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> Probe:
    """Majority class and linear probe on the test rows."""
    prepared, key = inputs.prepared, baseline.key
    train = subset(prepared.train, probe.probe_rows(true_classes(prepared.train), key.seed))
    splits = (train, prepared.validation, prepared.test)
    features = _features(partial(mean_pooled, model), splits, evaluate, partial(_part, on_progress, 0.0, 0.9))
    found = probe.linear_probe(
        (features[0], true_classes(train)),
        (features[1], true_classes(prepared.validation)),
        classes=len(prepared.labels),
        metric=key.primary_metric,
        peers=evaluate.peers,
        on_progress=partial(_part, on_progress, 0.9, 1.0),
    )
    return Probe(
        key=key,
        test_rows=len(prepared.test),
        majority=probe.most_frequent(true_classes(prepared.train)),
        strength=found.strength,
        validation=found.validation,
        rows=found.rows,
        predictions=tuple(found.classifier.answers(torch.from_numpy(features[2])).tolist()),
    )


def head_start(
    inputs: EvaluationInputs,
    training: Training,
    evaluate: Evaluate,
    device: torch.device,
    on_progress: OnProgress,
) -> HeadStart | None:
    """A linear probe of the input of the head's last linear layer, as weights of the head.

    None for `headInit: Random`, and for a base model whose head is kept.
    """
    if training.head_init == "Random":
        return None
    prepared, classes = inputs.prepared, len(inputs.prepared.labels)
    model: Any = on(device, load(inputs.base, prepared))
    layer = class_layer(model)
    if model.head_kept or layer is None:
        return None
    train = subset(prepared.train, probe.probe_rows(true_classes(prepared.train), inputs.seed))
    with starts.without(model, layer):
        features = _features(
            partial(classify, model),
            (train, prepared.validation),
            evaluate,
            partial(_part, on_progress, 0.0, 0.9),
        )
    linear = model.get_submodule(layer)
    found = probe.linear_probe(
        (features[0], true_classes(train)),
        (features[1], true_classes(prepared.validation)),
        classes=classes,
        metric=inputs.evaluation.primary_metric,
        peers=evaluate.peers,
        bias=linear.bias is not None,
        class_weights=class_weights(training.class_weights, prepared.train.labels, classes),
        on_progress=partial(_part, on_progress, 0.9, 1.0),
    )
    starts.put(found.classifier, linear)
    return HeadStart(
        weights=starts.weights_of(model, head(model)),
        init=HeadInit(strength=found.strength, validation=found.validation, rows=found.rows),
    )


def read_baseline(document: bytes) -> Probe:
    """A stored probe.

    Raises:
        ValidationError: it is none.
    """
    return Probe.model_validate_json(document)


def samples(inputs: EvaluationInputs, model: torch.nn.Module) -> tuple[str, ...]:
    """None: a classifier writes nothing."""
    return ()


def _features(
    compute: Callable[[Tensors], torch.Tensor],
    splits: tuple[Split, ...],
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> list[npt.NDArray[np.float32]]:
    """Features of the frozen model, computed by all ranks; each of shape [rows, width]."""
    every, before = sum(len(split) for split in splits), 0
    features = []
    for split in splits:
        share = partial(_part, on_progress, before / every, (before + len(split)) / every)
        features.append(evaluate(compute, split, share))
        before += len(split)
    return features


def _part(on_progress: OnProgress, before: float, after: float, share: float) -> None:
    """Tells the progress of a part as progress of the whole."""
    on_progress(before + (after - before) * share)
