"""The base model from local safetensors into a classifier. No code of the model's folder is ever run."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


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
            **_LOCAL,
        )
    except (ValueError, OSError, KeyError) as error:
        raise _unusable(folder, str(error)) from error
    _check_complete(model, loaded)
    # Heads that take **kwargs but ignore num_items_in_batch would multiply loss and gradient by the
    # accumulation steps and the world size; loop.py normalises the loss itself.
    model.accepts_loss_kwargs = False
    pad = pad_token(folder)
    model.config.pad_token_id = pad
    return model  # type: ignore[no-any-return]


def load_published(folder: Path) -> "PreTrainedModel":
    """A classifier that was saved whole, float32; nothing may be missing or left over.

    Raises:
        StageFailure: Internal if the files do not make exactly this model.
    """
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415 - heavy

    try:
        model, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **_LOCAL
        )
    except Exception as error:
        raise StageFailure(
            FailureClass.INTERNAL, "ModelDoesNotLoad", f"the saved model cannot be loaded: {error}"[:1000]
        ) from error
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loaded.items() if keys}
    if wrong:
        raise StageFailure(
            FailureClass.INTERNAL, "ModelIncomplete", f"the saved model does not load cleanly: {wrong}"[:1000]
        )
    return model.eval()  # type: ignore[no-any-return]


def load_body(folder: Path, device: torch.device) -> "PreTrainedModel":
    """The base model without any head, float32, for its features."""
    from transformers import AutoModel  # noqa: PLC0415 - heavy

    try:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **_LOCAL)
    except (ValueError, OSError, KeyError) as error:
        raise _unusable(folder, str(error)) from error
    return on(device, model)


def on(device: torch.device, model: "PreTrainedModel") -> "PreTrainedModel":
    """The model on a device, ready to answer."""
    module: torch.nn.Module = model
    module.to(device).eval()
    return model


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


def quiet() -> None:
    """Silences what the libraries tell people at a terminal; their errors stay."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")


def pad_token(folder: Path) -> int:
    """The padding token's number; what is padded is masked, so that 0 serves where there is none."""
    from transformers import AutoTokenizer  # noqa: PLC0415 - heavy

    number = AutoTokenizer.from_pretrained(folder, **_LOCAL).pad_token_id
    return 0 if number is None else int(number)


def _check_complete(model: "PreTrainedModel", loaded: dict[str, Any]) -> None:
    """Everything below the head must have come from the files."""
    body = f"{model.base_model_prefix}."
    # A pooler belongs to the head: models pretrained without sentence pairs have none.
    replaced = [str(key[0] if isinstance(key, tuple) else key) for key in loaded.get("mismatched_keys", ())]
    absent = [str(key) for key in loaded.get("missing_keys", ())]
    lacking = sorted(key for key in (*absent, *replaced) if key.startswith(body) and ".pooler." not in key)
    if lacking:
        more = "" if len(lacking) <= 3 else f" and {len(lacking) - 3} more"  # noqa: PLR2004
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelIncomplete",
            f"model.uri: the files lack weights that the architecture needs: {', '.join(lacking[:3])}{more}",
            "upload the complete model; config.json and the safetensors files must belong together",
        )


def _unusable(folder: Path, why: str) -> StageFailure:
    kind = json.loads((folder / "config.json").read_bytes()).get("model_type", "unknown")
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ModelUnusable",
        f"model.uri: a model of type {kind!r} cannot be loaded as a text classifier: {why}"[:1000],
        "choose an encoder such as BERT, RoBERTa, DeBERTa or ModernBERT, saved as safetensors",
    )
