"""Finds the layer that outputs the logits of the classes, and replaces the layer if the classes differ."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def class_layer(model: "PreTrainedModel") -> str | None:
    """Name of the last linear layer beside the body that has one output for each class; None without one."""
    body = f"{model.base_model_prefix}."
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module.out_features == model.config.num_labels
        and not name.startswith(body)
    ]
    return found[-1] if found else None


def set_classes(model: "PreTrainedModel", classes: Sequence[str], *, loaded: bool) -> bool:
    """Gives a classifier these classes. Its class layer is kept only for exactly the same class names.

    The rows of a layer that is kept are put into the order of `classes`. A new layer has the weights that the
    architecture begins with, the same on every rank for the same torch seed. Layers between body and class
    layer stay as they are.

    Args:
        model: with the class layer and the class names of its files; also in shards (ZeRO-3).
        classes: names in the order of their numbers.
        loaded: whether the class layer came from the files.

    Returns:
        Whether the layer was kept.

    Raises:
        ValueError: the model has no class layer.
    """
    name = class_layer(model)
    if name is None:
        raise ValueError("there is no linear layer with one output for each class")
    config: Any = model.config
    old = [str(config.id2label.get(number)) for number in range(config.num_labels)]
    kept = loaded and sorted(old) == sorted(classes) and len(set(old)) == len(old)
    layer: Any = model.get_submodule(name)
    if kept:
        _reorder(layer, [old.index(each) for each in classes])
    else:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _new(model, layer, len(classes)))
    config.id2label = dict(enumerate(classes))
    config.label2id = {each: number for number, each in enumerate(classes)}
    for module in model.modules():
        if hasattr(module, "num_labels"):
            setattr(module, "num_labels", len(classes))  # noqa: B010 - a number, which mypy takes for a module
    return kept


def _new(model: "PreTrainedModel", old: torch.nn.Linear, classes: int) -> torch.nn.Linear:
    """A layer of another number of outputs, beside the old one."""
    # The parameters of an old layer in shards (ZeRO-3) are empty, but have its device and precision.
    weight = old.weight
    # Ranks may have drawn different amounts of random numbers while they loaded.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch.initial_seed())
        layer = torch.nn.Linear(
            old.in_features, classes, bias=old.bias is not None, device=weight.device, dtype=weight.dtype
        )
        initialise: Any = model._init_weights  # noqa: SLF001 - how transformers initialises every new layer
        initialise(layer)
    return layer


def _reorder(layer: Any, rows: Sequence[int]) -> None:
    weights = [weight for weight in (layer.weight, layer.bias) if weight is not None]
    if hasattr(layer.weight, "ds_id"):
        import deepspeed  # noqa: PLC0415 - 5 s; only where the weights are in shards

        with deepspeed.zero.GatheredParameters(weights, modifier_rank=0):
            _permute(weights, rows)
    else:
        _permute(weights, rows)


def _permute(weights: Sequence[torch.nn.Parameter], rows: Sequence[int]) -> None:
    with torch.no_grad():
        for weight in weights:
            if weight.numel():
                weight.copy_(weight[list(rows)].clone())
