"""PURE: every `Auto` decided, one documented rule a function."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.config import Lora, Method, Offload, Run
from finetune_trainer.contract import Chosen, FailureClass
from finetune_trainer.data.batches import steps_per_epoch
from finetune_trainer.failures import StageFailure

_ROWS_SEEN = 12_000
_BATCH = 32
_MICRO_BATCH = 16
_LARGE = 100_000_000


@dataclass(frozen=True)
class AutoLimits:
    """What the `Auto` values of a task start from."""

    longest: int
    """Tokens that maxLength is at most."""
    percentile: float
    """So many percent of the training rows are to be kept whole."""
    tokens_at_once: int | None
    """Tokens that a micro-batch of rows of maxLength has at most; None: see `micro_batch_size`."""


def choose(
    run: Run, rows: int, typical_length: int, parameters: int, positions: int | None, limits: AutoLimits
) -> Chosen:
    """All values that training needs.

    Args:
        run: what was asked for.
        rows: training rows.
        typical_length: of the training rows, see `typical_length`.
        parameters: of the base model.
        positions: longest input of the model in tokens; None if it has no limit.
        limits: of the task.

    Raises:
        StageFailure: BatchIndivisible, BatchTooLarge, MaxLengthTooLong.
    """
    world, asked = run.world.size, run.training
    micro = None if asked.micro_batch_size == "Auto" else asked.micro_batch_size
    batch = batch_size(rows, world, micro) if asked.batch_size == "Auto" else asked.batch_size
    _check_batch(batch, micro, world, rows)
    epochs = epochs_for(rows) if asked.epochs == "Auto" else asked.epochs
    longest = asked.max_length
    if longest == "Auto":
        longest = max_length(typical_length, positions, limits.longest)
    if positions is not None and longest > positions:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "MaxLengthTooLong",
            f"training.maxLength: {longest} tokens, but the model has {positions} positions.",
            f"Set it to {positions} or less, or to Auto.",
        )
    micro = micro or micro_batch_size(batch // world, longest, limits.tokens_at_once)
    return Chosen(
        epochs=epochs,
        batch_size=batch,
        micro_batch_size=micro,
        accumulation_steps=batch // world // micro,
        world_size=world,
        learning_rate=asked.learning_rate or learning_rate(run.method, parameters),
        max_length=longest,
        zero_stage=zero_stage(world, run.offload) if run.zero_stage == "Auto" else run.zero_stage,
        total_steps=steps_per_epoch(rows, batch) * epochs,
    )


def epochs_for(rows: int) -> int:
    """12,000 rows are seen in all, in at least 2 and at most 10 passes."""
    return min(10, max(2, math.ceil(_ROWS_SEEN / rows)))


def batch_size(rows: int, world: int, micro: int | None) -> int:
    """The multiple of world size (and a given micro-batch) nearest to 32, at most the training rows."""
    unit = world * (micro or 1)
    nearest = max(1, round(_BATCH / unit)) * unit
    return max(unit, min(nearest, rows // unit * unit))


def micro_batch_size(per_process: int, longest: int, tokens_at_once: int | None) -> int:
    """The largest divisor of a process's share of the batch that is at most 16.

    With `tokens_at_once`, for rows that are laid end to end: of which rows of `longest` tokens are together
    at most so many; 1 where a single one is more.
    """
    most = _MICRO_BATCH if tokens_at_once is None else max(1, tokens_at_once // longest)
    return max(size for size in range(1, min(per_process, most) + 1) if per_process % size == 0)


def learning_rate(method: Method, parameters: int) -> float:
    """5e-5 below 100 million parameters, else 2e-5 (the range of the BERT paper, appendix A.3).

    LoRA: 2e-4 (the LoRA paper, appendix D), since what it trains starts from zero.
    """
    if isinstance(method, Lora):
        return 2e-4
    return 5e-5 if parameters < _LARGE else 2e-5


def typical_length(lengths: npt.NDArray[np.integer[Any]], percentile: float) -> int:
    """So many percent of the training rows have at most so many tokens, special tokens included."""
    return math.ceil(float(np.percentile(lengths, percentile)))


def max_length(typical: int, positions: int | None, most: int) -> int:
    """The typical length rounded up to a multiple of 8, at most `most` and the model's positions."""
    return min(math.ceil(typical / 8) * 8, most, positions or most)


def zero_stage(world: int, offload: Offload) -> int:
    """ZeRO-2 where there are several processes: optimizer states and gradients are shared out.

    ZeRO offloads what it manages: the optimizer's state from stage 1 on, parameters at stage 3 alone.
    """
    match offload:
        case "None":
            return 0 if world == 1 else 2
        case "Optimizer":
            return 2
        case "OptimizerAndParameters":
            return 3


def _check_batch(batch: int, micro: int | None, world: int, rows: int) -> None:
    unit = world * (micro or 1)
    if batch > rows:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchTooLarge",
            f"training.batchSize: {batch} rows, but there are only {rows} training rows.",
            f"Set it to {rows // unit * unit} or less."
            if rows >= unit
            else "Take fewer processes or more rows.",
        )
    if batch % world:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchIndivisible",
            f"training.batchSize: {batch} rows cannot be shared out to {world} processes.",
            f"Multiples of {unit} can: {_listed(_near(batch, unit))}.",
        )
    share = batch // world
    if micro and share % micro:
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchIndivisible",
            f"training.microBatchSize: {micro} rows do not divide the {share} rows of a process"
            f" (batchSize {batch} over {world}).",
            f"microBatchSize {_listed(divisors[-6:])} would do, or batchSize {_listed(_near(batch, unit))}.",
        )


def _near(value: int, unit: int) -> list[int]:
    """The multiples of a unit around a value."""
    low = value // unit * unit
    return [multiple for multiple in (low, low + unit) if multiple > 0]


def _listed(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " or " + texts[-1]
