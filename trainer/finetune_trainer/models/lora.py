"""LoRA adapters: adds, saves, loads and merges adapters."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from finetune_trainer.config import Lora
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.layer_names import is_target, unknown_targets

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What an adapter consists of; config.json beside them says what model it makes."""


def added(model: "PreTrainedModel", lora: Lora, head: Sequence[str], seed: int) -> "PeftModel":
    """The model with an adapter that changes nothing yet; only adapter and head are trained.

    Args:
        model: the base model, also in shards (ZeRO-3).
        lora: rank, scale, dropout and layers.
        head: modules that are new for the task: trained in full and saved with the adapter.
        seed: of the adapter's first weights, which are the same on every rank.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown).
    """
    from peft import LoraConfig, PeftModel  # noqa: PLC0415 - heavy

    names = sorted(_adaptable(model, head))
    if unknown := unknown_targets(lora.target_modules, names):
        raise unknown
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=[name for name in names if is_target(name, lora.target_modules)],
        modules_to_save=list(head) or None,
    )
    # Loading in shards draws random numbers on one rank alone.
    torch.manual_seed(seed)
    return PeftModel(model, config)


def save(model: "PeftModel", folder: Path, base_uri: str) -> None:
    """Writes adapter and head, and the config of the model that they make of the base model."""
    from peft import get_peft_model_state_dict  # noqa: PLC0415

    base: Any = model.get_base_model()
    base.config.name_or_path = ""
    base.config.save_pretrained(folder)
    config: Any = model.peft_config["default"]
    config.base_model_name_or_path = base_uri
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    config.save_pretrained(str(folder))
    # Nothing of the base model is asked for: PEFT would look it up on the internet by its name.
    weights = get_peft_model_state_dict(model, save_embedding_layers=False)
    whole = {name: value.contiguous() for name, value in weights.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def loaded(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """The base model with a saved adapter; no weight may be missing or left over.

    Args:
        base: with a head of the right shape, whatever its weights.
        folder: of the adapter.

    Raises:
        StageFailure: Internal (ModelDoesNotLoad, ModelIncomplete).
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict  # noqa: PLC0415

    try:
        model = PeftModel(base, LoraConfig.from_pretrained(str(folder)))
        saved = load_file(folder / WEIGHTS)
    except (ValueError, TypeError, OSError, SafetensorError) as error:
        raise _does_not_load(str(error)) from error
    own = get_peft_model_state_dict(model, save_embedding_layers=False)
    if other := sorted(
        name
        for name in own.keys() | saved.keys()
        if name not in own or name not in saved or own[name].shape != saved[name].shape
    ):
        raise StageFailure(
            FailureClass.INTERNAL,
            "ModelIncomplete",
            f"the saved adapter does not fit the base model: {', '.join(other[:3])}",
        )
    for name, value in own.items():
        value.copy_(saved[name])
    return model.eval()


def merged(model: "PeftModel") -> "PreTrainedModel":
    """The base model with the adapter added to its weights, in their own precision (float32)."""
    whole: PreTrainedModel = model.merge_and_unload(safe_merge=True)
    return whole


def is_added_weight(name: str) -> bool:
    """Whether a parameter is none of the model that merging makes: of the adapter, or replaced by a copy."""
    return ".lora_" in name or ".original_module." in name


def _adaptable(model: "PreTrainedModel", head: Sequence[str]) -> Iterator[str]:
    """Names of the linear layers below the head; what makes words of hidden states is none of them."""
    outputs = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        in_head = any(name == own or name.startswith(f"{own}.") for own in head)
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not outputs and not in_head:
            yield name


def _does_not_load(why: str) -> StageFailure:
    return StageFailure(
        FailureClass.INTERNAL, "ModelDoesNotLoad", f"the saved adapter cannot be loaded: {why}"[:1000]
    )
