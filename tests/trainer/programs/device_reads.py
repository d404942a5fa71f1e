"""Records the calls for which the host waits for the device, and which code of the trainer makes."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

import finetune_trainer

_TRAINER, _TORCH = (str(Path(package.__path__[0])) for package in (finetune_trainer, torch))
_WAITING = frozenset(
    {"item", "tolist", "cpu", "numpy", "__array__", "__bool__", "__int__", "__float__", "__index__", "equal"}
    | {"nonzero", "argwhere", "masked_select", "unique", "tensor", "as_tensor"}
)
"""Functions of torch that copy values to the host, whose result has a shape that depends on values, or that
copy values from the host to a device."""
_INDEXING = frozenset({"__getitem__", "__setitem__", "index_put", "index_put_"})


class DeviceReads(TorchFunctionMode):
    """Adds the name of each such call to a list.

    The calls of transformers and DeepSpeed are left out: the trainer cannot change them.
    """

    def __init__(self, calls: list[str]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_function__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name, given = func.__name__, dict(kwargs or {})
        if _waits(name, args, given) and _caller(sys._getframe(1)).startswith(_TRAINER):
            self.calls.append(name)
        return func(*args, **given)


def _waits(name: str, args: Sequence[Any], given: Mapping[str, Any]) -> bool:
    if name in _INDEXING:
        indices = args[1] if isinstance(args[1], tuple) else (args[1],)
        return any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
    if name == "to":
        return not given.get("non_blocking") and any(
            isinstance(value, (torch.device, str)) for value in (*args, *given.values())
        )
    return name in _WAITING or (name == "where" and len(args) == 1)


def _caller(frame: FrameType | None) -> str:
    """The file of the innermost code outside torch."""
    while frame and frame.f_code.co_filename.startswith(_TORCH):
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""
