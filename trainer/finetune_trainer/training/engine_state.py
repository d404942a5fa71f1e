"""Reads and restores the state of a DeepSpeed engine: float32 weights and the moments of Adam, by parameter.

Each rank reads and writes only its own partitions, so neither needs communication until the weights are
shared. The names of attributes are those of DeepSpeed 0.19: `single_partition_of_fp32_groups` in
runtime/zero/stage_1_and_2.py, `fp32_groups_flat_partition` in runtime/bf16_optimizer.py (ZeRO stage 1 with
bfloat16 weights), `fp32_partitioned_groups_flat` in runtime/zero/stage3.py. DeepSpeed has public functions
for single parameters, but these gather whole parameters, and know the moments only after a first step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from finetune_trainer.checkpoints.files import Kind, Part

_MOMENTS: tuple[Kind, ...] = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class _Held:
    """The elements of a trained parameter whose optimizer state is on this rank."""

    name: str
    offset: int
    """Index of the first element in the flattened parameter."""
    elements: int
    master: torch.Tensor
    """The float32 tensor that the optimizer updates: the parameter itself, or a flat partition."""
    start: int
    """Index of the first element in the flattened master."""


def held_parts(engine: Any) -> list[Part]:
    """The float32 weights and moments on this rank; the values are views of the state of the engine.

    Args:
        engine: a DeepSpeed engine with AdamW, whose moments exist: after a step, or after `create_moments`.
    """
    return [part for held in _held(engine) for part in _parts(engine, held)]


def owned_parts(engine: Any, rank: int, world: int) -> list[Part]:
    """The parts that this rank saves: together, the ranks save each element once.

    Without ZeRO, all ranks hold the same state, and each rank owns an equal share of each parameter.

    Args:
        engine: see `held_parts`.
        rank: global rank.
        world: number of ranks.
    """
    parts = held_parts(engine)
    if not _is_whole(engine):
        return parts
    return [share for part in parts if (share := _share_of(part, rank, world)).values.numel()]


def create_moments(engine: Any, updates: int) -> None:
    """Creates the moments of Adam, zeros, as AdamW would at its first step.

    Args:
        engine: a DeepSpeed engine with the fused AdamW of PyTorch that has not made a step.
        updates: number of updates of the weights after which the moments will be set.
    """
    state = engine.basic_optimizer.state
    for master in _masters(engine):
        # Each has a `step` of its own: AdamW changes them in place.
        state[master] = {"step": torch.full((), float(updates), device=master.device)}
        for moment in _MOMENTS:
            state[master][moment] = torch.zeros_like(master, memory_format=torch.preserve_format)


def complete_moments(engine: Any) -> None:
    """Creates the moments of Adam if the engine has made no update yet: the first step was skipped.

    Args:
        engine: a DeepSpeed engine with the fused AdamW of PyTorch, after a step.
    """
    if not engine.basic_optimizer.state:
        create_moments(engine, 0)


@torch.no_grad()
def share_weights(engine: Any) -> None:
    """Copies the float32 weights of all ranks into the weights of the model. A collective operation."""
    optimizer = engine.optimizer
    if _is_whole(engine):
        return
    if not _is_sharded(engine):
        optimizer.update_lp_params()
        return
    # The same operations as at the end of a step (stage3.py, step).
    optimizer._partition_all_parameters()  # noqa: SLF001 - not public
    for number in range(len(optimizer.fp16_groups)):
        optimizer._reassign_or_swap_out_partitioned_parameters(number)  # noqa: SLF001
    if optimizer.persistent_parameters:
        optimizer.persistent_parameters[0].all_gather(optimizer.persistent_parameters)


def _is_whole(engine: Any) -> bool:
    """Whether each rank holds the whole state (ZeRO stage 0)."""
    return engine.optimizer is engine.basic_optimizer


def _is_sharded(engine: Any) -> bool:
    """Whether each parameter is partitioned (ZeRO stage 3)."""
    return hasattr(engine.optimizer, "fp32_partitioned_groups_flat")


def _masters(engine: Any) -> list[torch.Tensor]:
    optimizer = engine.optimizer
    if _is_whole(engine):
        return [weight for group in optimizer.param_groups for weight in group["params"]]
    if _is_sharded(engine):
        return list(optimizer.fp32_partitioned_groups_flat)
    if hasattr(optimizer, "fp32_groups_flat_partition"):
        return list(optimizer.fp32_groups_flat_partition)
    return list(optimizer.single_partition_of_fp32_groups)


def _held(engine: Any) -> Iterator[_Held]:
    optimizer, masters = engine.optimizer, _masters(engine)
    names = {id(weight): name for name, weight in engine.module.named_parameters()}
    if _is_whole(engine):
        for weight in masters:
            yield _Held(names[id(weight)], 0, weight.numel(), weight, 0)
    elif _is_sharded(engine):
        rank = torch.distributed.get_rank()
        for weight in (weight for group in optimizer.fp16_groups for weight in group):
            number, start, size = optimizer.grad_position[optimizer.get_param_id(weight)]
            # The partition of the last rank is padded.
            if (elements := min(size, weight.ds_numel - size * rank)) > 0:
                yield _Held(names[id(weight)], size * rank, elements, masters[number], start)
    else:
        groups = optimizer.bf16_groups if hasattr(optimizer, "bf16_groups") else optimizer.bit16_groups
        for master, group in zip(masters, groups, strict=True):
            for weight in group:
                if mapping := weight._hp_mapping:  # noqa: SLF001 - not public
                    place, within = mapping.lp_fragment_address, mapping.hp_fragment_address
                    yield _Held(names[id(weight)], place.start, place.numel, master, within.start)


def _parts(engine: Any, held: _Held) -> Iterator[Part]:
    state = engine.basic_optimizer.state[held.master]
    tensors: dict[Kind, torch.Tensor] = {"weight": held.master, **{kind: state[kind] for kind in _MOMENTS}}
    for kind, tensor in tensors.items():
        values = tensor.detach().view(-1).narrow(0, held.start, held.elements)
        yield Part(kind, held.name, held.offset, values)


def _share_of(part: Part, rank: int, world: int) -> Part:
    size = -(-part.values.numel() // world)
    start = min(size * rank, part.values.numel())
    values = part.values[start : start + size]
    return Part(part.kind, part.name, part.offset + start, values)
