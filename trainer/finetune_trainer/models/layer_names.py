"""PURE: checks the layer names and layer counts of a training method against a model."""

from collections.abc import Collection, Sequence

from finetune_trainer.config import ALL_LINEAR
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure


def is_target(name: str, targets: Collection[str]) -> bool:
    """Returns whether a target selects a linear layer: by the last parts of the name, or as ALL_LINEAR."""
    return ALL_LINEAR in targets or any(f".{name}".endswith(f".{target}") for target in targets)


def check_targets(targets: Sequence[str], linear: Sequence[str]) -> StageFailure | None:
    """Checks that each target selects a linear layer.

    Args:
        targets: the targets of the job.
        linear: names of the linear layers of the model.

    Returns:
        The failure, or None.
    """
    unknown = [target for target in targets if not any(is_target(name, (target,)) for name in linear)]
    if not unknown:
        return None
    available = sorted({name.rpartition(".")[2] for name in linear})
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TargetModulesUnknown",
        f"method.lora.targetModules: no linear layer below the model's head is named"
        f" {', '.join(unknown)[:200]}; the model has {', '.join(available)[:400] or 'none'}.",
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
