"""Text classification while it is learnt and measured: cross entropy, a linear probe to beat, F1."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import cross_entropy

from finetune_trainer.data.batches import FILLER
from finetune_trainer.data.shards import Prepared, Split
from finetune_trainer.models.collate import IGNORE_INDEX, padded, subset
from finetune_trainer.models.load import load_saved
from finetune_trainer.models.packing import Packing
from finetune_trainer.tasks.base import Baseline, Evaluate, EvaluationInputs, Numbers, OnProgress, Tensors
from finetune_trainer.tasks.text_classification import probe
from finetune_trainer.tasks.text_classification.baseline import Probe
from finetune_trainer.tasks.text_classification.classifier import (
    classify,
    load_body,
    load_classifier,
    mean_pooled,
)
from finetune_trainer.tasks.text_classification.metrics import true_classes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

METRIC_CODE = "1"
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


def losses(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """Cross entropy of each row, shape [rows with a label]."""
    there = labels != IGNORE_INDEX
    return cross_entropy(outputs.logits.float()[there], labels[there], reduction="none")


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
    model: torch.nn.Module,
    evaluate: Evaluate,
    on_progress: OnProgress,
) -> Probe:
    """Majority class and linear probe on the test rows."""
    prepared, key = inputs.prepared, baseline.key
    train = subset(prepared.train, probe.probe_rows(len(prepared.train), key.seed))
    splits = (train, prepared.validation, prepared.test)
    features = _features(model, splits, evaluate, on_progress)
    return probe.linear_probe(
        (features[0], true_classes(train)),
        (features[1], true_classes(prepared.validation)),
        features[2],
        majority=probe.most_frequent(true_classes(prepared.train)),
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


def samples(inputs: EvaluationInputs, model: torch.nn.Module) -> tuple[str, ...]:
    """None: a classifier writes nothing."""
    return ()


def _features(
    body: Any, splits: tuple[Split, ...], evaluate: Evaluate, on_progress: OnProgress
) -> list[npt.NDArray[np.float32]]:
    """Mean-pooled features of the frozen base model, computed by all ranks; each of shape [rows, hidden]."""
    every, before = sum(len(split) for split in splits), 0
    features = []
    for split in splits:
        share = partial(_advanced, on_progress, before / every, len(split) / every)
        features.append(evaluate(partial(mean_pooled, body), split, share))
        before += len(split)
    return features


def _advanced(on_progress: OnProgress, before: float, part: float, share: float) -> None:
    on_progress(before + part * share)
