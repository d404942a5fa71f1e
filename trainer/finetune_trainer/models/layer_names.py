"""PURE: checks the layer names and layer counts of a training method against a model."""

from collections.abc import Collection, Sequence

from finetune_trainer.config import ALL_LINEAR, Lora
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.adapter_size import AdapterSize, find_adapter_size


def is_target(name: str, targets: Collection[str]) -> bool:
    """Returns whether a target selects a linear layer: by the last parts of the name, or as ALL_LINEAR."""
    return ALL_LINEAR in targets or any(f".{name}".endswith(f".{target}") for target in targets)


def select_layers(lora: Lora, linear: Sequence[str]) -> dict[str, AdapterSize]:
    """Selects the linear layers that LoRA adapts.

    Args:
        lora: settings of the job.
        linear: names of the linear layers of the model below the head.

    Returns:
        The size of the adapter of each selected layer, by the name of the layer.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown): a name selects no layer.
    """
    _check_each("targetModules", lora.target_modules, linear)
    _check_each("excludeModules", lora.exclude_modules, linear)
    left = [
        name
        for name in linear
        if is_target(name, lora.target_modules) and not is_target(name, lora.exclude_modules)
    ]
    if not left:
        raise _unknown("targetModules: excludeModules excludes all layers of", lora.target_modules, linear)
    sizes: dict[str, AdapterSize] = {}
    for place, item in enumerate(lora.module_ranks):
        others = [name for name in left if name not in sizes]
        _check_each(f"moduleRanks[{place}].modules", item.modules, others)
        size = find_adapter_size(lora, item.rank, item.alpha)
        sizes |= {name: size for name in others if is_target(name, item.modules)}
    whole = find_adapter_size(lora, lora.rank, lora.alpha)
    return {name: sizes.get(name, whole) for name in left}


def _check_each(field: str, names: Sequence[str], linear: Sequence[str]) -> None:
    """Checks that each name selects a layer."""
    if unknown := [name for name in names if not any(is_target(layer, (name,)) for layer in linear)]:
        raise _unknown(f"{field}: no linear layer below the model's head is named", unknown, linear)


def _unknown(what: str, names: Sequence[str], linear: Sequence[str]) -> StageFailure:
    available = sorted({name.rpartition(".")[2] for name in linear})
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TargetModulesUnknown",
        f"method.lora.{what} {', '.join(names)[:200]}; the model has {', '.join(available)[:400] or 'none'}.",
        f"Name some of these, or {ALL_LINEAR}.",
    )


def check_layer_count(asked: int, available: int) -> StageFailure | None:
    """Checks that the model has as many layers as the job requests.

    Args:
        asked: number of layers in the job.
        available: number of layers of the model.

    Returns:
        The failure, or None.
    """
    if asked <= available:
        return None
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TooManyLayers",
        f"method.freezeLayers.trainLast: {asked} layers, but the model has {available}.",
        f"Set it to {available} or less, or take another method." if available else "Take another method.",
    )
