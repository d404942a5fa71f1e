"""The base model as a classifier, or as the features that a linear probe reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from finetune_trainer.models.load import LOCAL, check_complete, on, pad_token, unusable

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KIND = "a text classifier"
_SUITABLE = "an encoder such as BERT, RoBERTa, DeBERTa or ModernBERT"


def load_classifier(folder: Path, labels: Sequence[str]) -> "PreTrainedModel":
    """The base model with a new classification head, float32, the same on every rank for the same torch seed.

    float32 on purpose: transformers 5 would take the dtype of the files, and full fine-tuning of bfloat16
    weights without float32 masters loses most small updates.

    Args:
        folder: the base model's files.
        labels: all classes, in the order of their numbers.

    Raises:
        StageFailure: UserConfig if the architecture has no classifier or the files lack weights of the body.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    names = dict(enumerate(labels))
    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            num_labels=len(labels),
            id2label=names,
            label2id={label: number for number, label in names.items()},
            problem_type="single_label_classification",
            # A classifier of another job may be the base: its head has another width and is replaced.
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
        )
    except (ValueError, OSError, KeyError) as error:
        raise unusable(folder, str(error), _KIND, _SUITABLE) from error
    check_complete(model, loaded)
    # Heads that take **kwargs but ignore num_items_in_batch would multiply loss and gradient by the
    # accumulation steps and the world size; loop.py normalises the loss itself.
    model.accepts_loss_kwargs = False
    pad = pad_token(folder)
    model.config.pad_token_id = pad
    return model  # type: ignore[no-any-return]


def load_body(folder: Path, device: torch.device) -> "PreTrainedModel":
    """The base model without any head, float32, for its features."""
    from transformers import AutoModel  # noqa: PLC0415 - heavy

    try:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOCAL)
    except (ValueError, OSError, KeyError) as error:
        raise unusable(folder, str(error), _KIND, _SUITABLE) from error
    return on(device, model)  # type: ignore[no-any-return]


def mean_pooled(body: "PreTrainedModel", inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean of the last hidden states over a row's real tokens, shape [rows, hidden]."""
    hidden = body(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).to(hidden.dtype)
    pooled: torch.Tensor = (hidden * mask).sum(1) / mask.sum(1)
    return pooled.float()


def classify(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits, float32, shape [rows, classes]."""
    output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    logits: torch.Tensor = output.logits
    return logits.float()
