"""Loads models from local safetensors files, without running code of the folder."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AnyModel = TypeVar("AnyModel", bound=torch.nn.Module)
LOCAL: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}


def load_saved(auto: Any, folder: Path, base: Path | None) -> torch.nn.Module:
    """A tuned model, float32, ready to answer; nothing may be missing or left over.

    Args:
        auto: the class of transformers that loads it, such as AutoModelForSequenceClassification.
        folder: its files: the whole model, or an adapter and the config of the model that it makes.
        base: the base model's files, where it is an adapter.

    Raises:
        StageFailure: Internal if the files do not make exactly this model, UserConfig if the base model's
            lack weights below the head.
    """
    from transformers import AutoConfig  # noqa: PLC0415 - heavy

    try:
        model, loaded = auto.from_pretrained(
            base or folder,
            config=AutoConfig.from_pretrained(folder, **LOCAL),
            dtype=torch.float32,
            # A classifier may be the base: its head has another width and is replaced by the adapter's.
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
        return lora.loaded(model, folder)
    wrong = {kind: sorted(map(str, keys)) for kind, keys in loaded.items() if keys}
    if wrong:
        raise StageFailure(
            FailureClass.INTERNAL, "ModelIncomplete", f"the saved model does not load cleanly: {wrong}"[:1000]
        )
    return model.eval()  # type: ignore[no-any-return]


def on(device: torch.device, model: AnyModel) -> AnyModel:
    """The model on a device, ready to answer."""
    model.to(device).eval()
    return model


def quiet() -> None:
    """Silences what the libraries tell people at a terminal; their errors stay."""
    from transformers.utils import logging  # noqa: PLC0415 - heavy

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.")


def check_complete(model: "PreTrainedModel", loaded: dict[str, Any], *, new_head: bool = True) -> None:
    """Refuses a base model whose files lack weights, or have them in another shape.

    Args:
        model: as transformers loaded it, with `ignore_mismatched_sizes`.
        loaded: the `output_loading_info` of that.
        new_head: whether weights above the body, and poolers, may be missing.

    Raises:
        StageFailure: UserConfig (ModelIncomplete).
    """
    body = f"{model.base_model_prefix}." if new_head else ""

    def needed(name: str) -> bool:
        # A pooler belongs to the head: models pretrained without sentence pairs have none.
        return name.startswith(body) and not (new_head and ".pooler." in name)

    absent = sorted(str(name) for name in loaded.get("missing_keys", ()) if needed(str(name)))
    other = sorted(
        f"{name} is {_shape(there)} in the files and {_shape(here)} by config.json"
        for name, there, here in loaded.get("mismatched_keys", ())
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


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def unusable(folder: Path, why: str, as_what: str, suitable: str) -> StageFailure:
    """The failure of a base model that is none for this task."""
    kind = json.loads((folder / "config.json").read_bytes()).get("model_type", "unknown")
    return StageFailure(
        FailureClass.USER_CONFIG,
        "ModelUnusable",
        f"model.uri: a model of type {kind!r} cannot be loaded as {as_what}: {why}"[:1000],
        f"choose {suitable}, saved as safetensors",
    )
