"""IO: checks the folder of the base model in S3: file names, JSON files and headers of the weight files."""

import math
from dataclasses import dataclass
from typing import Any

from finetune_trainer.contract import FailureClass, WeightsDtype
from finetune_trainer.failures import StageFailure
from finetune_trainer.models import dtypes, model_check, safetensors_header
from finetune_trainer.s3.objects import ObjectInfo
from finetune_trainer.s3.store import Store

_MAX_JSON_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Inspection:
    """The properties of a base model, read without its weights."""

    config: dict[str, Any]
    weights: dict[str, tuple[int, ...]]
    """Shape of each weight by its name."""
    dtype: WeightsDtype
    """Data type of the parameters; float32 if they have several."""
    warnings: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(map(math.prod, self.weights.values()))


def inspect(store: Store, folder: str, wanted: model_check.ModelRequirements) -> Inspection:
    """Checks whether a folder contains a suitable base model.

    Args:
        store: store of the model.
        folder: URI of the folder, ends in a slash.
        wanted: requirements of the task.

    Raises:
        StageFailure: the reasons of model_check.py and of the store.
    """
    files = _list_files(store, folder)
    names = frozenset(files)
    warnings = model_check.check_names(names, folder)
    config = model_check.check_config(store.read(folder + "config.json", _MAX_JSON_BYTES), folder, wanted)
    index = store.read(folder + model_check.INDEX, _MAX_JSON_BYTES) if model_check.INDEX in names else None
    weights: dict[str, tuple[int, ...]] = {}
    types: dict[str, str] = {}
    for name, promised in model_check.list_shards(names, index, folder).items():
        held = _read_header(store, folder + name, files[name].size)
        model_check.check_shard(held.tensors, promised, folder + name)
        model_check.check_floats(held.dtypes.values(), folder + name)
        weights |= held.tensors
        types |= held.dtypes
    dtype = dtypes.find_weights_dtype(types.values())
    return Inspection(config, weights, dtype, (*warnings, *dtypes.warn_mixed(weights, types)))


def _read_header(store: Store, file: str, size: int) -> safetensors_header.Header:
    length = safetensors_header.parse_header_length(store.read_range(file, 0, 8) if size else b"", size, file)
    return safetensors_header.parse_header(store.read_range(file, 8, length) if length else b"", size, file)


def _list_files(store: Store, folder: str) -> dict[str, ObjectInfo]:
    """Lists the objects below a folder by path, without folder placeholders."""
    files = {entry.uri.removeprefix(folder): entry for entry in store.list(folder) if entry.uri[-1] != "/"}
    unsafe = next((name for name in files if ".." in name.split("/")), None)
    if unsafe is not None:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ModelCorrupt",
            f"{folder} holds an object named {unsafe[:100]!r}.",
            "Upload the model's folder as it is on disk.",
        )
    return files
