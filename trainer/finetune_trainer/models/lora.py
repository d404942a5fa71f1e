"""Adds, saves, loads and merges LoRA adapters."""

import copy
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from transformers.pytorch_utils import Conv1D

from finetune_trainer.config import Lora
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import pissa
from finetune_trainer.models.adapter_size import find_adapter_size
from finetune_trainer.models.layer_names import select_layers
from finetune_trainer.models.weights import whole_parameters

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""Files of an adapter. The file config.json in the same folder describes the tuned model."""


def add_adapter(model: "PreTrainedModel", lora: Lora, head: Sequence[str], seed: int) -> "PeftModel":
    """Adds an adapter, which initially does not change the outputs.

    Only the adapter, the head, and the embeddings if the job trains them, are trainable.

    Args:
        model: the base model; the parameters can be sharded (ZeRO-3).
        lora: settings of the job.
        head: names of the new modules of the task, which are trained in full and saved with the adapter.
        seed: seed of the initial weights of the adapter, equal on every rank.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown).
    """
    from peft import LoraConfig, PeftModel  # noqa: PLC0415 - heavy

    sizes = select_layers(lora, sorted(_list_adaptable_layers(model, head)))
    usual = find_adapter_size(lora, lora.rank, lora.alpha)
    others = {f"^{re.escape(name)}$": size for name, size in sizes.items() if size != usual}
    config = LoraConfig(
        r=usual.rank,
        lora_alpha=usual.alpha,  # type: ignore[arg-type]  # PEFT only divides alpha by the rank
        rank_pattern={name: size.rank for name, size in others.items()},
        alpha_pattern={name: size.alpha for name, size in others.items()},
        lora_dropout=lora.dropout,
        use_dora=lora.weight_decomposition,
        target_modules=list(sizes),
        modules_to_save=list(head) or None,
    )
    # Loading with ZeRO-3 draws random numbers on one rank only.
    torch.manual_seed(seed)
    # The adapter has the data type of the model: DeepSpeed needs one data type for all trained parameters.
    # On the meta device, which has no values, the adapter has none either: for 70 billion parameters, random
    # values would need 0.8 GB and most of the time.
    meta = next(model.parameters()).is_meta
    tuned = PeftModel(model, config, autocast_adapter_dtype=False, low_cpu_mem_usage=meta)
    if meta:
        for layer in list_adapted_layers(tuned):
            for name in layer.adapter_layer_names:
                getattr(layer, name).to(model.dtype)
    if lora.initialization == "PiSSA":
        for layer in list_adapted_layers(tuned):
            pissa.initialize(layer)
    if lora.train_embeddings:
        for module in _list_embeddings(model).values():
            module.requires_grad_(True)
    return tuned


def save(model: "PeftModel", weights: Mapping[str, torch.Tensor], folder: Path, base_name: str) -> None:
    """Saves the adapter, the head, trained embeddings, and the config of the tuned model.

    Args:
        model: the model with the adapter; the parameters can be sharded (ZeRO-3).
        weights: whole trained tensors by their names in the model.
        folder: folder to write to.
        base_name: name under which a server serves the base model, for the config of the adapter.
    """
    from peft import get_peft_model_state_dict  # noqa: PLC0415

    base: Any = model.get_base_model()
    base.config.name_or_path = ""
    base.config.save_pretrained(folder)
    trained = {
        name: module
        for name, module in _list_embeddings(base).items()
        if any(weight.requires_grad for weight in module.parameters())
    }
    config: Any = copy.copy(model.peft_config["default"])
    config.base_model_name_or_path = base_name
    config.inference_mode = True
    config.target_modules = sorted(config.target_modules)
    config.modules_to_save = [*(config.modules_to_save or ()), *trained] or None
    config.save_pretrained(str(folder))
    # With embedding layers, PEFT would look up the base model on the internet.
    saved = get_peft_model_state_dict(model, dict(weights), save_embedding_layers=False)
    names = {id(weight): name for name, weight in model.named_parameters()}
    for name, module in trained.items():
        for key, weight in module.named_parameters():
            saved[f"base_model.model.{name}.{key}"] = weights[names[id(weight)]]
    # Tied embeddings are written twice, because PEFT loads each module by its own name.
    whole = {name: value.clone().contiguous() for name, value in saved.items()}
    save_file(whole, folder / WEIGHTS, metadata={"format": "pt"})


def load_adapter(base: "PreTrainedModel", folder: Path) -> "PeftModel":
    """Loads a saved adapter into a base model.

    Args:
        base: the base model with a head of the right shape.
        folder: files of the adapter, which must contain exactly the weights of the adapter and the head.

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


def merge_adapter(model: torch.nn.Module, dtype: torch.dtype) -> None:
    """Merges the adapter into the weights of the base model in float32, and rounds the result.

    The merged weight is W + alpha / rank * B A. DoRA (arXiv 2402.09353, equation 5) also scales each row of
    this sum to its trained norm.

    The adapter stays in the model for `save`, without effect on the outputs. A collective call for sharded
    parameters (ZeRO-3).

    Args:
        model: the model with the adapter, or one layer; `dtype` can represent all weights of base model and
            adapter.
        dtype: data type to which the merged weights are rounded.
    """
    from peft.utils import transpose  # noqa: PLC0415 - heavy

    for layer in list_adapted_layers(model):
        weight = layer.get_base_layer().weight
        low, high = layer.lora_A.default.weight, layer.lora_B.default.weight
        norms = [vector.weight for vector in layer.lora_magnitude_vector.values()]
        with whole_parameters([weight, low, high, *norms], change=True), torch.no_grad():
            merged = transpose(weight.float(), layer.fan_in_fan_out)
            merged = merged + layer.scaling["default"] * (high.float() @ low.float())
            for norm in norms:
                merged *= (norm.float() / merged.norm(dim=1)).unsqueeze(1)
            weight.copy_(transpose(merged, layer.fan_in_fan_out).to(dtype))
        layer.merged_adapters.append("default")


def remove_adapter(model: "PeftModel") -> "PreTrainedModel":
    """Returns the model without the adapter."""
    whole: PreTrainedModel = model.unload()
    whole.tie_weights()
    return whole


def is_added_weight(name: str) -> bool:
    """Returns whether the merged model lacks a parameter: a part of the adapter, or a replaced module."""
    return ".lora_" in name or ".original_module." in name


def list_adapted_layers(model: torch.nn.Module) -> Iterator[Any]:
    """Yields the modules of the adapter."""
    from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - heavy

    yield from (module for module in model.modules() if isinstance(module, LoraLayer))


def _list_embeddings(model: "PreTrainedModel") -> dict[str, torch.nn.Module]:
    """Returns the token embeddings and the output layer of a language model, by name."""
    both = (model.get_input_embeddings(), model.get_output_embeddings())  # type: ignore[no-untyped-call]
    return {name: module for name, module in model.named_modules() if module in both}


def _list_adaptable_layers(model: "PreTrainedModel", head: Sequence[str]) -> Iterator[str]:
    """Yields the names of the linear layers outside the head and the output embeddings."""
    outputs = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    for name, module in model.named_modules():
        in_head = any(name == own or name.startswith(f"{own}.") for own in head)
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not outputs and not in_head:
            yield name


def _does_not_load(why: str) -> StageFailure:
    return StageFailure(
        FailureClass.INTERNAL, "ModelDoesNotLoad", f"the saved adapter cannot be loaded: {why}"[:1000]
    )
