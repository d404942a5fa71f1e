"""Writes the weights of a whole model layer by layer, to safetensors files of limited size."""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from finetune_trainer.models.memory import SHARD_BYTES
from finetune_trainer.models.weights import full_shape, whole_parameters

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tensors = dict[str, torch.Tensor]
MakeWhole = Callable[[Sequence[Any]], AbstractContextManager[None]]
"""Makes the values of parameters available within a context, see `weights.whole_parameters`."""
_FILE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_LAYER = re.compile(r".*?\.\d+(?=\.)")


def write_weights(
    model: "PreTrainedModel",
    folder: Path | None,
    dtype: torch.dtype,
    make_whole: MakeWhole = whole_parameters,
    on_layer: Callable[[], None] = lambda: None,
) -> None:
    """Writes the weights in the names and shapes of `save_pretrained`. A collective call for sharded models.

    Memory is needed for one layer, or for the tensors outside of the layers, and for one file.

    Args:
        model: a whole model, or a model whose parameters are sharded (ZeRO-3).
        folder: folder to write to; None on ranks that do not write.
        dtype: data type of the written floating point tensors.
        make_whole: makes the values of parameters available.
        on_layer: called after each layer.
    """
    _forget_unused_conversions(model)
    files = _Files(folder) if folder else None
    for layer in _read_layers(model, dtype, make_whole):
        if files:
            files.add(_revert_conversion(model, layer))
        layer.clear()
        on_layer()
    if files:
        files.finish(sum(full_shape(weight).numel() for weight in model.parameters()))


def _read_layers(model: "PreTrainedModel", dtype: torch.dtype, make_whole: MakeWhole) -> Iterator[Tensors]:
    """Yields CPU copies of the saved tensors layer by layer, in the names of the state dict."""
    state: dict[str, Any] = model.state_dict(keep_vars=True)
    for names in _group_by_layer(_list_saved_names(model, state)):
        layer: Tensors = {}
        for name in names:
            value = state[name]
            with make_whole([value]):
                wanted = dtype if value.is_floating_point() else value.dtype
                layer[name] = value.detach().to("cpu", wanted, copy=True)
        yield layer


def _list_saved_names(model: "PreTrainedModel", state: dict[str, Any]) -> list[str]:
    """Returns the names of the saved tensors: one name for tied weights, and no ignored tensors."""
    from transformers.modeling_utils import remove_tied_weights_from_state_dict  # noqa: PLC0415 - heavy

    ignored = set(model._keys_to_ignore_on_save or ())  # noqa: SLF001 - as save_pretrained
    # For tensors on the meta device, transformers finds tied weights by the parameters of the model. Sharded
    # parameters have no memory of their own.
    names = {name: torch.empty(1, device="meta") for name in state if name not in ignored}
    return list(remove_tied_weights_from_state_dict(names, model))


def _group_by_layer(names: Iterable[str]) -> list[list[str]]:
    """Groups names by the layer, which is the name up to the first number; other names are one group.

    Weight conversions of transformers combine only tensors of one group.
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        layer = _LAYER.match(name)
        groups.setdefault(layer[0] if layer else "", []).append(name)
    return list(groups.values())


def _revert_conversion(model: "PreTrainedModel", tensors: Tensors) -> Tensors:
    """Converts tensors of the state dict to the names and shapes of files, such as one matrix per expert."""
    from transformers.core_model_loading import revert_weight_conversion  # noqa: PLC0415 - heavy

    return dict(revert_weight_conversion(model, tensors))


def _forget_unused_conversions(model: Any) -> None:
    """Removes the weight conversions that no weight of the files of the base model needed.

    transformers reverts the recorded conversions to save a model. At ZeRO-3, transformers also records
    conversions without an effect, such as the prefix of a body that has the prefix already.
    """
    recorded = getattr(model, "_weight_conversions", None)
    if recorded is not None:
        model._weight_conversions = [one for one in recorded if one.was_used()]  # noqa: SLF001 - no public API


class _Files:
    """Collects tensors, and writes a file whenever the next tensor would exceed SHARD_BYTES."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.written: list[tuple[Path, list[str]]] = []
        self.size = 0
        self._tensors: Tensors = {}

    def add(self, tensors: Tensors) -> None:
        """Adds tensors, which the caller does not keep."""
        for name in list(tensors):
            value = tensors.pop(name)
            if self._tensors and _count_bytes(self._tensors) + value.nbytes > SHARD_BYTES:
                self._write()
            # A copy of a view, so that the rest of the viewed tensor is freed.
            view = value.untyped_storage().nbytes() > value.nbytes
            self._tensors[name] = value.clone() if view else value.contiguous()

    def finish(self, parameters: int) -> None:
        """Writes the last file, and an index if there are several files.

        Args:
            parameters: number of parameters of the model, for the index.
        """
        self._write()
        if len(self.written) == 1:
            self.written[0][0].rename(self.folder / _FILE)
            return
        weight_map: dict[str, str] = {}
        for number, (unnamed, names) in enumerate(self.written, start=1):
            file = f"model-{number:05}-of-{len(self.written):05}.safetensors"
            unnamed.rename(self.folder / file)
            weight_map |= dict.fromkeys(names, file)
        index = {
            "metadata": {"total_parameters": parameters, "total_size": self.size},
            "weight_map": weight_map,
        }
        (self.folder / _INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _write(self) -> None:
        # The number of files, which is part of their names, is not known yet.
        file = self.folder / f"model-{len(self.written) + 1:05}.unfinished"
        save_file(self._tensors, file, metadata={"format": "pt"})
        self.written.append((file, list(self._tensors)))
        self.size += _count_bytes(self._tensors)
        self._tensors = {}


def _count_bytes(tensors: Tensors) -> int:
    return sum(value.nbytes for value in tensors.values())
