"""Applies a training method to a model, and saves the tuned model."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from finetune_trainer.config import FreezeLayers, Lora, Method
from finetune_trainer.models import lora, older_readers
from finetune_trainer.models.class_layer import write_class_names
from finetune_trainer.models.layer_names import check_layer_count
from finetune_trainer.models.method_facts import MethodFacts
from finetune_trainer.models.weights import full_shape, whole_parameters, whole_tensors
from finetune_trainer.models.whole_weights import MakeWhole, write_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EXPERT_AXES = 3


def apply_method(method: Method, model: "PreTrainedModel", head: Sequence[str], seed: int) -> torch.nn.Module:
    """Applies a training method: only the parameters that the method trains require gradients.

    Args:
        method: training method of the run.
        model: the loaded model, which the function can modify.
        head: names of the new modules of the task, which every method trains.
        seed: seed of the run.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown, TooManyLayers).
    """
    match method:
        case "Full":
            return model
        case Lora():
            return lora.add_adapter(model, method, head, seed)
        case FreezeLayers():
            _freeze(model, method.train_last, head)
            return model


def merge_if_requested(method: Method, model: Any, dtype: torch.dtype) -> None:
    """Merges the adapter into the weights of the base model if the job publishes a merged model.

    Args:
        method: training method of the run.
        model: the tuned model.
        dtype: data type of the published weights.
    """
    if isinstance(method, Lora) and method.merge:
        lora.merge_adapter(model, dtype)


def save(
    model: Any,
    folder: Path | None,
    base_name: str,
    dtype: torch.dtype,
    make_whole: MakeWhole = whole_parameters,
    on_part: Callable[[], None] = lambda: None,
) -> None:
    """Saves a tuned model, or only its adapter, with a config.json that transformers 4 can also read.

    A collective call for sharded models (ZeRO-3). Memory is needed for the adapter, or for one layer and one
    file of the weights.

    Args:
        model: the tuned model.
        folder: new folder to write to; None on ranks that do not write.
        base_name: name under which a server serves the base model, for the config of an adapter.
        dtype: data type of the saved weights.
        make_whole: makes the values of the parameters of a whole model available.
        on_part: called after each part of the weights.
    """
    from peft import PeftModel  # noqa: PLC0415 - heavy

    if folder:
        folder.mkdir(parents=True, exist_ok=True)
    model.config.dtype = str(dtype).removeprefix("torch.")
    if isinstance(model, PeftModel):
        trained = {}
        for name, value in whole_tensors(model):
            trained[name] = value.to(dtype) if value.is_floating_point() else value
            on_part()
        if folder:
            lora.save(model, trained, folder, base_name)
    else:
        write_weights(model, folder, dtype, make_whole, on_part)
        if folder:
            _write_config(model, folder)
    if folder:
        older_readers.add_old_keys(folder)
        if getattr(model.config, "problem_type", None) == "single_label_classification":
            write_class_names(folder, model.config)


def _write_config(model: "PreTrainedModel", folder: Path) -> None:
    """Writes the configs of a model as `save_pretrained` does."""
    model.config.name_or_path = ""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if model.can_generate():
        generation: Any = model.generation_config
        generation.save_pretrained(folder)


def count_parameters(model: torch.nn.Module) -> tuple[int, int]:
    """Returns the number of trained parameters and the number of parameters of the tuned model."""
    weights = list(model.named_parameters())
    trained = sum(_numel(weight) for _, weight in weights if weight.requires_grad)
    every = sum(_numel(weight) for name, weight in weights if not lora.is_added_weight(name))
    return trained, every


def find_facts(method: Method, model: Any) -> MethodFacts:
    """Determines the effects of a method on a model.

    Args:
        method: training method of the run.
        model: the result of `apply_method`; the parameters can be sharded (ZeRO-3).
    """
    match method:
        case "Full":
            return MethodFacts()
        case Lora():
            from peft.tuners.lora import LoraLayer  # noqa: PLC0415 - heavy

            names = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
            return MethodFacts(
                adapted=dict(Counter(name.rpartition(".")[2] for name in names)),
                fused_experts=sum(map(_numel, _list_fused_experts(model))),
            )
        case FreezeLayers():
            outputs, inputs = model.get_output_embeddings(), model.get_input_embeddings()
            tied = outputs is not None and outputs.weight is inputs.weight
            return MethodFacts(output_frozen=tied and not inputs.weight.requires_grad)


def _list_fused_experts(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Yields weights with one matrix for each expert, shape [experts, out, in]."""
    for module in model.modules():
        if not isinstance(module, torch.nn.modules.conv._ConvNd):  # noqa: SLF001 - their weights have 3 axes
            for weight in module.parameters(recurse=False):
                if len(full_shape(weight)) == _EXPERT_AXES:
                    yield weight


def _freeze(model: torch.nn.Module, train_last: int, head: Sequence[str]) -> None:
    """Freezes all embeddings and all parameters that are defined before the first trained layer."""
    layers = find_layers(model)
    if failure := check_layer_count(train_last, len(layers)):
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


def find_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Returns the layers of the model: the module list with the most parameters."""
    lists = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList)]
    return [*max(lists, key=_count_weights)] if lists else []


def _count_weights(module: torch.nn.ModuleList) -> int:
    return sum(map(_numel, module.parameters()))


def _numel(weight: torch.nn.Parameter) -> int:
    return full_shape(weight).numel()
