"""Finds the classification layer of a model, replaces the layer if the classes differ, saves the classes."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def find_class_layer(model: "PreTrainedModel") -> str | None:
    """Returns the name of the last linear layer outside the body with one output for each class, or None."""
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
    """Sets the classes of a classifier.

    The classification layer of the files is kept if the class names are the same, and its rows are reordered.
    Otherwise the layer is replaced by a new layer, which the architecture initialises equally on every rank
    for the same torch seed. Other layers of the head do not change.

    Args:
        model: the classifier with the classes of its files; the parameters can be sharded (ZeRO-3).
        classes: class names in the order of the outputs.
        loaded: whether the classification layer was loaded from the files.

    Returns:
        Whether the classification layer was kept.

    Raises:
        ValueError: the model has no classification layer.
    """
    name = find_class_layer(model)
    if name is None:
        raise ValueError("there is no linear layer with one output for each class")
    config: Any = model.config
    old = [str(config.id2label.get(number)) for number in range(config.num_labels)]
    kept = loaded and sorted(old) == sorted(classes) and len(set(old)) == len(old)
    layer: Any = model.get_submodule(name)
    if kept:
        _reorder(layer, [old.index(class_name) for class_name in classes])
    else:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, _build_layer(model, layer, len(classes)))
    config.id2label = dict(enumerate(classes))
    config.label2id = {class_name: number for number, class_name in enumerate(classes)}
    for module in model.modules():
        if hasattr(module, "num_labels"):
            setattr(module, "num_labels", len(classes))  # noqa: B010 - a number, which mypy takes for a module
    return kept


def write_class_names(folder: Path, config: Any) -> None:
    """Writes `id2label` and `label2id` to config.json of a saved classifier.

    transformers leaves out the names of the two classes LABEL_0 and LABEL_1, which are its defaults. Other
    programs have no such defaults.

    Args:
        folder: folder of the saved model.
        config: config of the model.
    """
    file = folder / "config.json"
    names = {
        "id2label": {str(number): name for number, name in config.id2label.items()},
        "label2id": dict(config.label2id),
    }
    file.write_text(json.dumps({**json.loads(file.read_bytes()), **names}, indent=2, sort_keys=True) + "\n")


def _build_layer(model: "PreTrainedModel", old: torch.nn.Linear, classes: int) -> torch.nn.Linear:
    """Creates a layer like `old` with another number of outputs."""
    # Sharded parameters (ZeRO-3) are empty, but have the right device and dtype.
    weight = old.weight
    # Ranks can have drawn different amounts of random numbers during loading.
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
        import deepspeed  # noqa: PLC0415 - the import takes 5 s

        with deepspeed.zero.GatheredParameters(weights, modifier_rank=0):
            _permute(weights, rows)
    else:
        _permute(weights, rows)


def _permute(weights: Sequence[torch.nn.Parameter], rows: Sequence[int]) -> None:
    with torch.no_grad():
        for weight in weights:
            if weight.numel():
                weight.copy_(weight[list(rows)].clone())
