"""IO: checks the folder of the base model in S3: listing, JSON files, headers of the weights."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import model_check
from finetune_trainer.s3.objects import ObjectInfo
from finetune_trainer.s3.store import Store

_MAX_JSON_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Inspection:
    """What the folder says of itself; no weight was read."""

    config: dict[str, Any]
    weights: dict[str, tuple[int, ...]]
    """Shape of each weight by its name."""
    warnings: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Numbers in all weights."""
        return sum(map(math.prod, self.weights.values()))


def inspect(store: Store, folder: str, wanted: model_check.Wanted) -> Inspection:
    """Whether a folder can be a base model.

    Args:
        store: that holds it.
        folder: its uri, ending in a slash.
        wanted: what the task needs.

    Raises:
        StageFailure: every reason of model_check.py, and those of the store.
    """
    there = _listing(store, folder)
    names = frozenset(there)
    warnings = model_check.check_names(names, folder)
    config = model_check.check_config(store.read(folder + "config.json", _MAX_JSON_BYTES), folder, wanted)
    index = store.read(folder + model_check.INDEX, _MAX_JSON_BYTES) if model_check.INDEX in names else None
    weights: dict[str, tuple[int, ...]] = {}
    for name, promised in model_check.shards(names, index, folder).items():
        held = _header(store, folder + name, there[name].size)
        model_check.check_shard(held.tensors, promised, folder + name)
        model_check.check_floats(held.kinds, folder + name)
        weights |= held.tensors
    return Inspection(config, weights, tuple(warnings))


def _header(store: Store, file: str, size: int) -> model_check.Header:
    length = model_check.header_length(store.read_range(file, 0, 8) if size else b"", size, file)
    return model_check.header(store.read_range(file, 8, length) if length else b"", size, file)


def _listing(store: Store, folder: str) -> dict[str, ObjectInfo]:
    """Objects below the folder by their path in it; markers of empty folders are none."""
    there = {entry.uri.removeprefix(folder): entry for entry in store.list(folder) if entry.uri[-1] != "/"}
    unsafe = next((name for name in there if ".." in name.split("/")), None)
    if unsafe is not None:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelCorrupt",
            f"{folder} holds an object named {unsafe[:100]!r}.",
            "Upload the model's folder as it is on disk.",
        )
    return there
