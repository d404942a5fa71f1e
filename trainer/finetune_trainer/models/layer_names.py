"""PURE: checks the layer counts of a method against a model."""

from collections.abc import Collection, Sequence

from finetune_trainer.config import ALL_LINEAR
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure


def is_target(name: str, targets: Collection[str]) -> bool:
    """Whether a linear layer is meant: by the end of its name, at a dot, or as one of all."""
    return ALL_LINEAR in targets or any(f".{name}".endswith(f".{target}") for target in targets)


def unknown_targets(targets: Sequence[str], linear: Sequence[str]) -> StageFailure | None:
    """The failure of names that no linear layer has.

    Args:
        targets: as asked for.
        linear: names of the model's linear layers.
    """
    unknown = [target for target in targets if not any(is_target(name, (target,)) for name in linear)]
    if not unknown:
        return None
    there = sorted({name.rpartition(".")[2] for name in linear})
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TargetModulesUnknown",
        f"method.lora.targetModules: no linear layer below the model's head is named"
        f" {', '.join(unknown)[:200]}; the model has {', '.join(there)[:400] or 'none'}.",
        f"Name some of these, or {ALL_LINEAR}.",
    )


def too_many_layers(asked: int, there: int) -> StageFailure | None:
    """The failure of asking for more layers than there are."""
    if asked <= there:
        return None
    return StageFailure(
        FailureClass.USER_CONFIG,
        "TooManyLayers",
        f"method.freezeLayers.trainLast: {asked} layers, but the model has {there}.",
        f"Set it to {there} or less, or take another method." if there else "Take another method.",
    )
