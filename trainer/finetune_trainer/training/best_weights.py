"""Saves the trained weights of a gang on the disk of rank 0, and loads them on every rank."""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.weights import trained_tensors, whole_parameters, whole_tensors
from finetune_trainer.training.distributed import Gang

Weights = dict[str, torch.Tensor]


def keep(gang: Gang, module: torch.nn.Module, path: Path, dtype: torch.dtype) -> None:
    """Saves the trained weights as one safetensors file on the disk of rank 0.

    Every rank must call this function: at ZeRO-3 the weights are gathered by collective operations.

    Args:
        gang: the process group.
        module: the trained model.
        path: path of the file.
        dtype: data type of the published weights, to which the weights are rounded.

    Raises:
        StageFailure: class Numerical (WeightsOverflow), on all ranks.
    """
    weights: Weights = {}
    for name, value in whole_tensors(module):
        rounded = _round(name, value, dtype)
        if gang.first:
            weights[name] = rounded
    if gang.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file(weights, unfinished)
        unfinished.replace(path)


def _round(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not value.is_floating_point():
        return value
    rounded = value.to(dtype)
    if bool((torch.isinf(rounded) & torch.isfinite(value)).any()):
        raise StageFailure(
            FailureClass.NUMERICAL,
            "WeightsOverflow",
            f"the weight {name} has values up to {float(value.abs().max()):.3g}, and the largest number of"
            f" {str(dtype).removeprefix('torch.')}, the data type of the base model, is"
            f" {torch.finfo(dtype).max:.3g}",
            "lower training.learningRate, or save the base model in bfloat16 or float32",
        )
    return rounded


def spread(gang: Gang, module: torch.nn.Module, path: Path) -> None:
    """Loads the weights that rank 0 saved into a module on every rank. A collective operation.

    Args:
        gang: the process group.
        module: a model, whole or sharded (ZeRO-3). Its weights that are not trained must be those of the base
            model.
        path: path of the file on the disk of rank 0.

    Raises:
        AssertionError: the file has other weights than the model trains.
    """
    saved = _read(module, path) if gang.first else None
    for name, value in trained_tensors(module):
        with whole_parameters([value], change=True):
            if saved is not None:
                value.data.copy_(saved(name))
        if not hasattr(value, "ds_id"):
            dist.broadcast(value.data, src=0)


def _read(module: torch.nn.Module, path: Path) -> Callable[[str], torch.Tensor]:
    """Opens the file of the trained weights of a model, and returns a function that reads a tensor."""
    file = safe_open(path, framework="pt")
    names: list[str] = file.keys()  # type: ignore[no-untyped-call]
    if other := set(names) ^ {name for name, _ in trained_tensors(module)}:
        raise AssertionError(f"{path} has other weights than the model trains: {sorted(other)[:3]}")
    read: Callable[[str], torch.Tensor] = file.get_tensor
    return read
