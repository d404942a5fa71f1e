"""PURE: a model's layers by the names of its weights, and whether a method's names and numbers fit them."""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from finetune_trainer.config import ALL_LINEAR, FreezeLayers, Lora, Method
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each weight by its name, such as `encoder.layer.0.attention.self.query.weight`."""
_NUMBERED = re.compile(r"(.*?)\.(\d+)\.")
_EMBEDDING = re.compile(r"embed|^wte$|^wpe$|^shared$")
_MATRIX = 2


def check(method: Method, weights: Shapes) -> None:
    """Refuses a method that names layers which the base model has not.

    Raises:
        StageFailure: UserConfig (TargetModulesUnknown, TooManyLayers).
    """
    match method:
        case "Full":
            return
        case Lora():
            failure = unknown_targets(method.target_modules, sorted(_linear(weights)))
        case FreezeLayers():
            failure = too_many_layers(method.train_last, count(weights))
    if failure:
        raise failure


def count(weights: Shapes) -> int:
    """Layers of the model: of the numbered list that holds most weights; 0 where nothing is numbered."""
    numbers, sizes = defaultdict(set), Counter[str]()
    for name, shape in weights.items():
        if found := _NUMBERED.match(name):
            home, number = found.groups()
            numbers[home].add(number)
            sizes[home] += math.prod(shape)
    return len(numbers[sizes.most_common(1)[0][0]]) if sizes else 0


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


def _linear(weights: Shapes) -> Iterator[str]:
    """Modules whose weight is a matrix; embeddings are told by their names."""
    for name, shape in weights.items():
        module, _, kind = name.rpartition(".")
        if kind == "weight" and len(shape) == _MATRIX and not _EMBEDDING.search(module.rpartition(".")[2]):
            yield module
