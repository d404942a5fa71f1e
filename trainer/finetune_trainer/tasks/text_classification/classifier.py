"""Loads the base model as a classifier, or without a head for the features of the linear probe."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.models.class_layer import find_class_layer, set_classes
from finetune_trainer.models.load import LOCAL, check_complete, unusable_model
from finetune_trainer.models.padding import choose_pad_token

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_KIND = "a text classifier"
_SUITABLE = "an encoder such as BERT, RoBERTa, DeBERTa or ModernBERT"


def load_classifier(folder: Path, labels: Sequence[str], dtype: torch.dtype) -> "PreTrainedModel":
    """Loads the base model as a classifier, equal on every rank for the same torch seed.

    The classification layer is new, unless the base model is a classifier with the same class names; the
    attribute `head_kept` of the model contains the decision. Under ZeRO-3, transformers cannot load a
    classification layer of another shape, so the model is first loaded with the classes of its files.

    Args:
        folder: files of the base model.
        labels: class names in the order of the outputs.
        dtype: data type of all floating point parameters.

    Raises:
        StageFailure: UserConfig if the architecture has no classifier or the files lack weights of the body.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=dtype,
            # check_complete accepts a mismatched shape only outside the body.
            ignore_mismatched_sizes=True,
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
        )
    except (ValueError, OSError, KeyError) as error:
        raise unusable_model(folder, str(error), _KIND, _SUITABLE) from error
    if (layer := find_class_layer(model)) is None:
        raise unusable_model(
            folder, "it has no linear layer with one output for each class", _KIND, _SUITABLE
        )
    check_complete(model, loaded)
    model.config.problem_type = "single_label_classification"
    model.head_kept = set_classes(model, labels, loaded=not _is_replaced(layer, loaded))
    # A decoder classifies at the last token that is not the padding token.
    for config in (model.config, model.config.get_text_config()):
        config.pad_token_id = choose_pad_token(folder).number
    return model  # type: ignore[no-any-return]


def _is_replaced(layer: str, loaded: dict[str, Any]) -> bool:
    """Returns whether a weight of the layer was not loaded from the files."""
    keys = (*loaded.get("missing_keys", ()), *loaded.get("mismatched_keys", ()))
    names = {str(key[0] if isinstance(key, tuple) else key) for key in keys}
    return any(name.startswith(f"{layer}.") for name in names)


def load_body(folder: Path, dtype: torch.dtype) -> "PreTrainedModel":
    """Loads the base model without a head, to compute features."""
    from transformers import AutoModel  # noqa: PLC0415 - heavy

    try:
        body: PreTrainedModel = AutoModel.from_pretrained(folder, dtype=dtype, use_safetensors=True, **LOCAL)
    except (ValueError, OSError, KeyError) as error:
        raise unusable_model(folder, str(error), _KIND, _SUITABLE) from error
    return body


def pool_mean(body: "PreTrainedModel", inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Mean of the last hidden states over the tokens of each row, float32, shape [rows, hidden]."""
    hidden = body(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).last_hidden_state
    mask = inputs["attention_mask"].unsqueeze(-1).float()
    pooled: torch.Tensor = (hidden.float() * mask).sum(1) / mask.sum(1)
    return pooled


def classify(model: torch.nn.Module, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Computes the logits, float32, shape [rows, classes]."""
    output = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
    logits: torch.Tensor = output.logits
    return logits.float()
