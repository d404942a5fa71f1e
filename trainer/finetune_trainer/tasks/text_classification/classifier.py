"""Loads the base model as a classifier, or without head for the features of the linear probe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.models.class_layer import class_layer, set_classes
from finetune_trainer.models.load import LOCAL, check_complete, on, unusable
from finetune_trainer.models.padding import pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KIND = "a text classifier"
_SUITABLE = "an encoder such as BERT, RoBERTa, DeBERTa or ModernBERT"


def load_classifier(folder: Path, labels: Sequence[str]) -> "PreTrainedModel":
    """The base model as a classifier, float32, the same on every rank for the same torch seed.

    The layer that gives the logits of the classes is new, unless the base model is a classifier of exactly
    the same class names; `head_kept` of the model says which. Under ZeRO-3 transformers cannot load a class
    layer of another shape, so the model is loaded with the classes of its files first.

    float32 on purpose: transformers 5 would take the dtype of the files, and full fine-tuning of bfloat16
    weights without float32 masters loses most small updates.

    Args:
        folder: the base model's files.
        labels: all classes, in the order of their numbers.

    Raises:
        StageFailure: UserConfig if the architecture has no classifier or the files lack weights of the body.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=torch.float32,
            # A layer of the head may have another shape in the files; check_complete accepts that above the
            # body alone.
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
        )
    except (ValueError, OSError, KeyError) as error:
        raise unusable(folder, str(error), _KIND, _SUITABLE) from error
    if (layer := class_layer(model)) is None:
        raise unusable(folder, "it has no linear layer with one output for each class", _KIND, _SUITABLE)
    check_complete(model, loaded)
    model.config.problem_type = "single_label_classification"
    model.head_kept = set_classes(model, labels, loaded=not _replaced(layer, loaded))
    # Heads that take **kwargs but ignore num_items_in_batch would multiply loss and gradient by the
    # accumulation steps and the world size; loop.py normalises the loss itself.
    model.accepts_loss_kwargs = False
    # A decoder classifies by the last token that is not this one.
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = pad_token(folder).number
    return model  # type: ignore[no-any-return]


def _replaced(layer: str, loaded: dict[str, Any]) -> bool:
    """Whether a layer has a weight that did not come from the files."""
    keys = (*loaded.get("missing_keys", ()), *loaded.get("mismatched_keys", ()))
    names = {str(key[0] if isinstance(key, tuple) else key) for key in keys}
    return any(name.startswith(f"{layer}.") for name in names)


def load_body(folder: Path, device: torch.device) -> "PreTrainedModel":
    """The base model without any head, float32, for its features."""
    from transformers import AutoModel  # noqa: PLC0415 - heavy

    try:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **LOCAL)
    except (ValueError, OSError, KeyError) as error:
        raise unusable(folder, str(error), _KIND, _SUITABLE) from error
    return on(device, model)  # type: ignore[no-any-return]


def mean_pooled(body: "PreTrainedModel", inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean of the last hidden states over the tokens of each row, float32, shape [rows, hidden]."""
    hidden = body(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    pooled: torch.Tensor = (hidden.float() * mask).sum(1) / mask.sum(1)
    return pooled


def classify(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits, float32, shape [rows, classes]."""
    output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    logits: torch.Tensor = output.logits
    return logits.float()
