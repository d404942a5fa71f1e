"""Applies the training method of a run to a loaded model."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.models import lora, older_readers
from finetune_trainer.models.layer_names import too_many_layers
from finetune_trainer.models.method_facts import MethodFacts

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EXPERT_AXES = 3


def applied(method: Method, model: "PreTrainedModel", head: Sequence[str], seed: int) -> torch.nn.Module:
    """The model of which only what the method trains asks for gradients.

    Args:
        method: of the run.
        model: as the task loaded it; it may be changed.
        head: names of the modules that are new for the task; every method trains them.
        seed: of the run.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown, TooManyLayers).
    """
    match method:
        case "Full":
            return model
        case Lora():
            return lora.added(model, method, head, seed)
        case FreezeLayers():
            _freeze(model, method.train_last, head)
            return model


def save(model: Any, folder: Path, base_uri: str) -> None:
    """Saves a tuned model, whole or as an adapter if it has one, with a config.json for older readers too."""
    from peft import PeftModel  # noqa: PLC0415 - heavy

    if isinstance(model, PeftModel):
        lora.save(model, folder, base_uri)
    else:
        model.config.name_or_path = ""
        model.save_pretrained(folder)
    older_readers.add_old_keys(folder)


def sizes(model: torch.nn.Module) -> tuple[int, int]:
    """Numbers in the weights that are trained, and in all weights of the model that comes of it."""
    weights = list(model.named_parameters())
    trained = sum(weight.numel() for _, weight in weights if weight.requires_grad)
    return trained, sum(weight.numel() for name, weight in weights if not lora.is_added_weight(name))


def facts(method: Method, model: Any) -> MethodFacts:
    """What a method did to a model.

    Args:
        method: of the run.
        model: as `applied` returned it; also in shards (ZeRO-3).
    """
    match method:
        case "Full":
            return MethodFacts()
        case Lora():
            from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - heavy

            names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
            return MethodFacts(
                adapted=dict(Counter(name.rpartition(".")[2] for name in names)),
                fused_experts=sum(map(_numel, _fused(model))),
            )
        case FreezeLayers():
            outputs, inputs = model.get_output_embeddings(), model.get_input_embeddings()
            tied = outputs is not None and outputs.weight is inputs.weight
            return MethodFacts(output_frozen=tied and not inputs.weight.requires_grad)


def _fused(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Weights of the model's own code that hold one matrix for each expert, shape [experts, out, in]."""
    for module in model.modules():
        if not isinstance(module, torch.nn.modules.conv._ConvNd):  # noqa: SLF001 - their weights have 3 axes
            for weight in module.parameters(recurse=False):
                if len(getattr(weight, "ds_shape", weight.shape)) == _EXPERT_AXES:
                    yield weight


def _freeze(model: torch.nn.Module, train_last: int, head: Sequence[str]) -> None:
    """Leaves as they are: all embeddings, and whatever is defined before the first layer that is trained."""
    layers = _layers(model)
    if failure := too_many_layers(train_last, len(layers)):
        raise failure
    first = {id(weight) for weight in layers[len(layers) - train_last].parameters()}
    reached = False
    for weight in model.parameters():
        reached = reached or id(weight) in first
        weight.requires_grad_(reached)
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.requires_grad_(False)
    for name in head:
        model.get_submodule(name).requires_grad_(True)


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The list of modules that holds most weights: the layers, or those of the larger half of two."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [*max(lists, key=_size)] if lists else []


def _size(module: torch.nn.ModuleList) -> int:
    return sum(map(_numel, module.parameters()))


def _numel(weight: torch.nn.Parameter) -> int:
    # A weight in shards (ZeRO-3) is empty and says its size elsewhere.
    return int(getattr(weight, "ds_numel", weight.numel()))
