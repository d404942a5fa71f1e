"""The weights that a run trains, whole, out of a gang and back onto every rank."""

from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file

from finetune_trainer.models.weights import trained_tensors, whole_tensors
from finetune_trainer.training.distributed import Gang

Weights = dict[str, torch.Tensor]


def keep(gang: Gang, module: torch.nn.Module, path: Path) -> None:
    """Writes all trained weights as one safetensors file on rank 0's disk; a collective call at ZeRO-3."""
    weights = {name: value for name, value in whole_tensors(module) if gang.first}
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
            for name, value in trained_tensors(module):
                kept.remove(name)
                value.data.copy_(file.get_tensor(name))
        if kept:
            raise AssertionError(f"{path} holds weights that the model has not: {sorted(kept)[:3]}")
    for _, value in trained_tensors(module):
        dist.broadcast(value.data, src=0)
