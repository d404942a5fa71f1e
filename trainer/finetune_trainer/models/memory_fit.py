"""PURE: selects settings with which a job fits in memory."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from finetune_trainer.contract import Offload
from finetune_trainer.models.memory import (
    LIVE,
    Choices,
    GpuMemory,
    HostMemory,
    ModelFacts,
    estimate_gpu,
    estimate_host,
)

_EFFICIENT_TOKENS = 2048
"""Tokens of a micro-batch below which a GPU computes noticeably slower."""
_OFFLOADS: tuple[Offload, ...] = ("None", "Optimizer", "OptimizerAndParameters")
_LAYERS_GATHERED = 2
_MOST_LENGTH_HALVINGS = 5


@dataclass(frozen=True)
class Capacity:
    """The available memory in bytes; None if unknown."""

    device: int | None = None
    """Memory of one GPU. Without GPUs: host memory of one process."""
    pod: int | None = None
    """Host memory that a Train pod may have."""


@dataclass(frozen=True)
class Free:
    """The settings that may be changed so that a job fits, because the job leaves them to Prepare (Auto)."""

    zero_stage: bool
    offload: bool
    checkpointing: bool
    rows: bool
    """Rows of a micro-batch."""
    length: bool = False
    """Tokens of a row. Never `Auto` here, because shorter rows lose data; for advice only."""


EVERYTHING = Free(zero_stage=True, offload=True, checkpointing=True, rows=True, length=True)


@dataclass(frozen=True)
class Fit:
    """Settings, and their estimated memory."""

    choices: Choices
    device: GpuMemory
    host: HostMemory
    fits: bool
    """Whether the estimate is within the capacity."""


def select_settings(facts: ModelFacts, wanted: Choices, free: Free, capacity: Capacity) -> Fit:
    """Selects the settings that fit and lose the least time.

    Args:
        facts: properties of the model.
        wanted: the settings of a job without limits of memory.
        free: the settings that may change.
        capacity: the available memory.

    Returns:
        If no settings fit, those with the smallest estimate.
    """
    fits = (estimate(facts, choices, capacity) for choices in _list_candidates(facts, wanted, free))
    tried: list[Fit] = []
    for fit in fits:
        if fit.fits:
            return fit
        tried.append(fit)
    return min(tried, key=lambda fit: fit.device.total)


def find_world(facts: ModelFacts, wanted: Choices, capacity: Capacity) -> int | None:
    """Finds the number of processes, at most 64 times those of the job, that fit at ZeRO stage 3.

    Args:
        facts: properties of the model.
        wanted: settings that do not fit.
        capacity: the available memory.
    """
    free = replace(EVERYTHING, offload=False, length=False)
    for doublings in range(1, 7):
        larger = replace(wanted, world=wanted.world << doublings, zero_stage=3, offload="None")
        if select_settings(facts, larger, free, capacity).fits:
            return larger.world
    return None


def estimate(facts: ModelFacts, choices: Choices, capacity: Capacity) -> Fit:
    """Estimates the memory of settings.

    Args:
        facts: properties of the model.
        choices: the settings.
        capacity: the available memory.
    """
    device, host = estimate_gpu(facts, choices), estimate_host(facts, choices)
    fits = (capacity.device is None or device.total <= capacity.device) and (
        capacity.pod is None or host.train <= capacity.pod
    )
    return Fit(choices, device, host, fits)


def _list_candidates(facts: ModelFacts, wanted: Choices, free: Free) -> Iterator[Choices]:
    """Yields settings in the order of the time that they lose.

    Smaller micro-batches of at least 2,048 tokens come first, then activation checkpointing (a second forward
    pass), still smaller micro-batches, ZeRO stage 3 (communication in each layer), offload, and shorter rows.
    """
    rows = [count for count in range(wanted.rows, 0, -1) if wanted.rows % count == 0]
    rows = rows if free.rows else rows[:1]
    efficient = [count for count in rows if count * wanted.length >= _EFFICIENT_TOKENS]
    saving = (False, True) if free.checkpointing and facts.can_checkpoint else (False,)
    for sharding in _list_shardings(facts, wanted, free):
        for few in (efficient, rows):
            for checkpointing in saving:
                for count in few:
                    yield replace(sharding, rows=count, checkpointing=sharding.checkpointing or checkpointing)
    if free.length:
        least = replace(wanted, rows=rows[-1], checkpointing=wanted.checkpointing or facts.can_checkpoint)
        for halvings in range(1, _MOST_LENGTH_HALVINGS + 1):
            shorter = replace(least, length=wanted.length >> halvings)
            yield from _list_shardings(facts, shorter, free)


def _list_shardings(facts: ModelFacts, wanted: Choices, free: Free) -> Iterator[Choices]:
    """Yields the combinations of ZeRO stage, offload and gathered parameters."""
    stages = [wanted.zero_stage]
    if free.zero_stage:
        stages += [stage for stage in (2, 3) if stage > wanted.zero_stage]
    offloads = _OFFLOADS[_OFFLOADS.index(wanted.offload) :] if free.offload else (wanted.offload,)
    for offload in offloads:
        for stage in stages:
            if (offload == "Optimizer" and stage == 0) or (offload == _OFFLOADS[-1] and stage != 3):  # noqa: PLR2004
                continue
            yield replace(wanted, zero_stage=stage, offload=offload)
            if stage == 3:  # noqa: PLR2004 - the stages have only numbers
                few = min(LIVE, _LAYERS_GATHERED * max(facts.largest_layer, 1))
                yield replace(wanted, zero_stage=stage, offload=offload, live=few)
