"""The weights that a run trains, whole, out of a gang and back onto every rank."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_trainer.training.distributed import Gang

Weights = dict[str, torch.Tensor]


def keep(gang: Gang, module: torch.nn.Module, path: Path) -> None:
    """Writes all trained weights as one safetensors file on rank 0's disk; a collective call at ZeRO-3."""
    weights = {name: value for name, value in _whole(module) if gang.first}
    if gang.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        save_file(weights, unfinished)
        unfinished.replace(path)


def spread(gang: Gang, module: torch.nn.Module, path: Path) -> None:
    """Gives a plain module on every rank the weights that rank 0 kept; a collective call.

    Its other weights must be those of the module that was kept: they are the base model's.
    """
    if gang.first:
        with safe_open(path, framework="pt") as file:
            kept = set(file.keys())
            for name, value in _trained(module):
                kept.remove(name)
                value.data.copy_(file.get_tensor(name))
        if kept:
            raise AssertionError(f"{path} holds weights that the model has not: {sorted(kept)[:3]}")
    for _, value in _trained(module):
        dist.broadcast(value.data, src=0)


def not_finite(module: torch.nn.Module) -> list[str]:
    """Names of the weights that hold a NaN or an infinity."""
    return [name for name, value in _tensors(module) if not bool(torch.isfinite(value).all())]


def _whole(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Every trained weight by name, a copy on the CPU; sharded ones are gathered one at a time."""
    for name, value in _trained(module):
        if hasattr(value, "ds_id"):
            from deepspeed.runtime.zero import GatheredParameters  # noqa: PLC0415 - heavy

            with GatheredParameters([value], modifier_rank=None):
                yield name, value.detach().cpu().clone().contiguous()
        else:
            yield name, value.detach().cpu().clone().contiguous()


def _trained(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """What training may change: parameters that ask for gradients, and buffers."""
    for name, value in _tensors(module):
        if value.requires_grad or not isinstance(value, torch.nn.Parameter):
            yield name, value


def _tensors(module: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    """Parameters (tied ones once) and the buffers that are saved."""
    yield from module.named_parameters()
    saved = set(module.state_dict(keep_vars=True))
    yield from ((name, value) for name, value in module.named_buffers() if name in saved)
