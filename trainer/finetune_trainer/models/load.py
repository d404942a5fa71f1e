"""Loads models from local safetensors files without code of the model folder."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import lora
from finetune_trainer.models.vocabulary import grow_vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AnyModel = TypeVar("AnyModel", bound=torch.nn.Module)
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def load_saved(auto: Any, folder: Path, base: Path | None, dtype: torch.dtype) -> torch.nn.Module:
    """Loads a tuned model in evaluation mode.

    Args:
        auto: class of transformers, such as AutoModelForSequenceClassification.
        folder: files of the whole model, or of an adapter with the config of the tuned model.
        base: files of the base model, for an adapter.
        dtype: data type of the weights. If the files have this data type, the weights are mapped into memory
            from the files.

    Raises:
        StageFailure: Internal if weights are missing, unexpected or mismatched; UserConfig if the base model
            lacks weights below the head.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        text = config.get_text_config()
        rows = text.vocab_size
        if base:
            text.vocab_size = AutoConfig.from_pretrained(base, **LOCAL).get_text_config().vocab_size
        model, loaded = auto.from_pretrained(
            base or folder,
            config=config,
            dtype=dtype,
            # The head of a base classifier can have another shape; the adapter replaces the head.
            ignore_mismatched_sizes=base is not None,
            use_safetensors=True,
            output_loading_info=True,
            **LOCAL,
        )
    except Exception as error:
        raise StageFailure(
            FailureClass.INTERNAL, "ModelDoesNotLoad", f"the saved model cannot be loaded: {error}"[:1000]
        ) from error
    if base:
        check_complete(model, loaded)
        grow_vocabulary(model, rows)
        return lora.load_adapter(model, folder)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loaded.items() if keys}
    if wrong:
        raise StageFailure(
            FailureClass.INTERNAL, "ModelIncomplete", f"the saved model does not load cleanly: {wrong}"[:1000]
        )
    return model.eval()  # type: ignore[no-any-return]


def move_to_device(device: torch.device, model: AnyModel) -> AnyModel:
    """Moves a model to a device and sets evaluation mode."""
    model.to(device).eval()
    return model


def silence_libraries() -> None:
    """Disables warnings and progress bars of the libraries; errors stay enabled."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")


def check_complete(model: "PreTrainedModel", loaded: dict[str, Any], *, new_head: bool = True) -> None:
    """Checks that the files of a base model contain all weights in the right shapes.

    Args:
        model: the loaded model, with `ignore_mismatched_sizes`.
        loaded: the `output_loading_info` of transformers.
        new_head: whether weights outside the body, and poolers, can be missing.

    Raises:
        StageFailure: UserConfig (ModelIncomplete).
    """
    body = f"{model.base_model_prefix}." if new_head else ""

    def needed(name: str) -> bool:
        # A pooler belongs to the head, because models pretrained without sentence pairs have no pooler.
        return name.startswith(body) and not (new_head and ".pooler." in name)

    absent = sorted(str(name) for name in loaded.get("missing_keys", ()) if needed(str(name)))
    other = sorted(
        f"{name} is {_format_shape(file_shape)} in the files and {_format_shape(config_shape)} by config.json"
        for name, file_shape, config_shape in loaded.get("mismatched_keys", ())
        if needed(str(name))
    )
    lacking, what = (absent, "lack weights that the architecture needs") if absent else (other, "do not fit")
    if lacking:
        more = "" if len(lacking) <= 3 else f" and {len(lacking) - 3} more"  # noqa: PLR2004
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelIncomplete",
            f"model.uri: the files {what}: {', '.join(lacking[:3])}{more}",
            "Upload the complete model. config.json and the safetensors files must belong together.",
        )


def _format_shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def unusable_model(folder: Path, why: str, as_what: str, suitable: str) -> StageFailure:
    """Returns the failure of a base model that does not suit the task.

    Args:
        folder: files of the base model.
        why: reason for people.
        as_what: kind of model that the task needs.
        suitable: models that the task supports.
    """
    kind = json.loads((folder / "config.json").read_bytes()).get("model_type", "unknown")
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ModelUnusable",
        f"model.uri: a model of type {kind!r} cannot be loaded as {as_what}: {why}"[:1000],
        f"choose {suitable}, saved as safetensors",
    )
