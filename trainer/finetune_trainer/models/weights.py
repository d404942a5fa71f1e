"""The trained tensors and the saved tensors of a model, and their data types."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from finetune_trainer.contract import WeightsDtype


def torch_dtype(name: WeightsDtype) -> torch.dtype:
    """Returns the data type of PyTorch with this name."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def is_sharded(module: torch.nn.Module) -> bool:
    """Returns whether the parameters of a model are sharded over the ranks (ZeRO-3)."""
    return any(hasattr(weight, "ds_id") for weight in module.parameters())


def full_shape(weight: torch.Tensor) -> torch.Size:
    """Returns the shape of a parameter, which at ZeRO-3 is empty outside of a forward pass."""
    shape: torch.Size = getattr(weight, "ds_shape", weight.shape)
    return shape


@contextmanager
def whole_parameters(weights: Iterable[torch.nn.Parameter], *, change: bool = False) -> Iterator[None]:
    """Makes the values of parameters available within the context; a collective call for sharded parameters.

    Args:
        weights: the parameters.
        change: whether rank 0 changes the values. All ranks then get the values of rank 0.
    """
    sharded = [weight for weight in weights if hasattr(weight, "ds_id")]
    if not sharded:
        yield
        return
    from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415 - heavy

    with GatheredParameters(sharded, modifier_rank=0 if change else None):
        yield


def list_non_finite(module: torch.nn.Module) -> list[str]:
    """Returns the names of the saved tensors that contain NaN or infinity."""
    return [name for name, value in saved_tensors(module) if not bool(torch.isfinite(value).all())]


def whole_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the name of every trained tensor and a copy of the tensor on the CPU.

    At ZeRO-3 the function gathers one tensor at a time, and every rank must consume the iterator.

    Args:
        module: the model.
    """
    for name, value in trained_tensors(module):
        with whole_parameters([value]):
            yield name, value.detach().cpu().clone().contiguous()


def overwrite(module: torch.nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copies weights into the parameters of these names; a collective call for sharded parameters (ZeRO-3).

    Args:
        module: the model.
        weights: whole tensors, equal on every rank.
    """
    for name, value in weights.items():
        parameter = module.get_parameter(name)
        with whole_parameters([parameter], change=True), torch.no_grad():
            parameter.copy_(value)


def trained_tensors(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields the tensors that training may change: parameters with `requires_grad`, and saved buffers."""
    for name, value in saved_tensors(module):
        if value.requires_grad or not isinstance(value, torch.nn.Parameter):
            yield name, value


def saved_tensors(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Yields all parameters, each tied parameter once, and the buffers of the state dict."""
    yield from module.named_parameters()
    saved = set(module.state_dict(keep_vars=True))
    yield from ((name, value) for name, value in module.named_buffers() if name in saved)
