"""PURE: selects the value of every `Auto` hyperparameter, with one function for each rule."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from finetune_trainer.config import Checkpointing, Lora, Method, Run
from finetune_trainer.contract import Chosen, FailureClass, Offload, WeightsDtype
from finetune_trainer.data.batches import steps_per_epoch
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.dtypes import may_keep_bfloat16

_ROWS_SEEN = 12_000
"""Rows over all epochs."""
_BATCH = 32
_MICRO_BATCH = 16
_LARGE = 100_000_000
"""Number of parameters from which a model counts as large."""


_CHECKPOINTED = 1_000_000_000
"""Number of parameters from which a model uses activation checkpointing."""


@dataclass(frozen=True)
class AutoLimits:
    """The limits of a task for its `Auto` values."""

    longest: int
    """Maximum of maxLength in tokens."""
    percentile: float
    """Percentage of the training rows that must not be truncated."""
    tokens_at_once: int | None
    """Maximum tokens of a micro-batch; None: 16 rows of maxLength, see `micro_batch_tokens`."""


@dataclass(frozen=True)
class BaseFacts:
    """The properties of the base model on which `Auto` values depend."""

    parameters: int
    """Number of parameters."""
    positions: int | None
    """Maximum input in tokens; None for a model without a limit."""
    dtype: WeightsDtype = "float32"
    """Data type of the weights."""
    can_checkpoint: bool = True
    """Whether the architecture supports activation checkpointing."""


def choose(run: Run, rows: int, typical_length: int, base: BaseFacts, limits: AutoLimits) -> Chosen:
    """Selects all hyperparameters of the training, without regard to memory (see models.memory_fit).

    Args:
        run: the config of the run.
        rows: number of training rows.
        typical_length: typical length of the training rows in tokens, see `typical_length`.
        base: properties of the base model.
        limits: limits of the task.

    Raises:
        StageFailure: BatchIndivisible, BatchTooSmall, BatchTooLarge, MaxLengthTooLong,
            CheckpointingUnsupported.
    """
    world, training, positions = run.world.size, run.training, base.positions
    micro = None if training.micro_batch_size == "Auto" else training.micro_batch_size
    batch = batch_size(rows, world, micro) if training.batch_size == "Auto" else training.batch_size
    _check_batch(batch, micro, world, rows)
    epochs = epochs_for(rows) if training.epochs == "Auto" else training.epochs
    longest = training.max_length
    if longest == "Auto":
        longest = max_length(typical_length, positions, limits.longest)
    if positions is not None and longest > positions:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "MaxLengthTooLong",
            f"training.maxLength: {longest} tokens, but the model takes at most {positions} tokens.",
            f"Set training.maxLength to {positions} or less, or to Auto.",
        )
    offload: Offload = "None" if run.offload == "Auto" else run.offload
    stage = run.zero_stage
    if stage == "Auto":
        gpus = run.world.gpus_per_node > 0
        keeps_bfloat16 = may_keep_bfloat16(base.dtype, training.precision, gpus=gpus)
        stage = zero_stage(world, offload, bfloat16_weights=keeps_bfloat16)
    return Chosen(
        epochs=epochs,
        batch_size=batch,
        micro_batch_size=micro,
        accumulation_steps=batch // world // micro if micro else None,
        micro_batch_tokens=None if micro else micro_batch_tokens(longest, limits.tokens_at_once),
        world_size=world,
        learning_rate=training.learning_rate or learning_rate(run.method, base.parameters),
        max_length=longest,
        zero_stage=stage,
        total_steps=steps_per_epoch(rows, batch) * epochs,
        model_dtype=base.dtype,
        activation_checkpointing=activation_checkpointing(training.activation_checkpointing, base),
        offload=offload,
    )


def epochs_for(rows: int) -> int:
    """The number of epochs: enough for 12,000 rows over all epochs, at least 2 and at most 10."""
    return min(10, max(2, math.ceil(_ROWS_SEEN / rows)))


def batch_size(rows: int, world: int, micro: int | None) -> int:
    """The multiple of the world size (times `micro`) that is nearest to 32 and at most the training rows.

    Args:
        rows: number of training rows.
        world: world size.
        micro: rows of a micro-batch; None if the micro-batch is `Auto`.

    Returns:
        Rows of a global batch, at least the world size (times `micro`).
    """
    unit = world * (micro or 1)
    nearest = max(1, round(_BATCH / unit)) * unit
    return max(unit, min(nearest, rows // unit * unit))


def micro_batch_tokens(longest: int, tokens_at_once: int | None) -> int:
    """The budget of a micro-batch, which is large enough for one row.

    Args:
        longest: maximum length of a row in tokens.
        tokens_at_once: limit of the task in tokens; None: the limit is 16 rows of `longest` tokens.

    Returns:
        Maximum tokens of a micro-batch, padding included.
    """
    return max(longest, tokens_at_once or _MICRO_BATCH * longest)


def learning_rate(method: Method, parameters: int) -> float:
    """The learning rate by method and size of the model.

    5e-5 below 100 million parameters, else 2e-5 (range of the BERT paper, arXiv 1810.04805, appendix A.3).
    For LoRA 2e-4 (arXiv 2106.09685, appendix D), because the low-rank update starts from zero.
    """
    if isinstance(method, Lora):
        return 2e-4
    return 5e-5 if parameters < _LARGE else 2e-5


def typical_length(lengths: npt.NDArray[np.integer[Any]], percentile: float) -> int:
    """The length that a percentage of the training rows does not exceed.

    Args:
        lengths: tokens of each training row with special tokens, shape [rows].
        percentile: the percentage.

    Returns:
        Tokens, rounded up.
    """
    return math.ceil(float(np.percentile(lengths, percentile)))


def max_length(typical: int, positions: int | None, most: int) -> int:
    """The typical length rounded up to a multiple of 8, within the limits.

    Args:
        typical: typical length in tokens.
        positions: maximum input of the model in tokens; None for a model without a limit.
        most: limit of the task in tokens.
    """
    return min(math.ceil(typical / 8) * 8, most, positions or most)


def zero_stage(world: int, offload: Offload, *, bfloat16_weights: bool = False) -> int:
    """The ZeRO stage: 2 for several processes, which partitions the optimizer state and the gradients.

    Offloading the optimizer state and bfloat16 weights need stage 1 or higher, and offloading the parameters
    needs stage 3.

    Args:
        world: world size.
        offload: the state that DeepSpeed keeps in the memory of the host.
        bfloat16_weights: whether the weights of the model can stay bfloat16, see `dtypes.select_dtypes`.
    """
    match offload:
        case "None":
            return 0 if world == 1 and not bfloat16_weights else 2
        case "Optimizer":
            return 2
        case "OptimizerAndParameters":
            return 3


def activation_checkpointing(requested: Checkpointing, base: BaseFacts) -> bool:
    """Whether to use activation checkpointing; `Auto` is for models of at least 1 billion parameters.

    Args:
        requested: the value of the spec.
        base: properties of the base model.

    Raises:
        StageFailure: CheckpointingUnsupported.
    """
    if requested == "Enabled" and not base.can_checkpoint:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "CheckpointingUnsupported",
            "training.activationCheckpointing: transformers does not support activation checkpointing for the"
            " architecture of the base model.",
            "Set training.activationCheckpointing to Auto or Disabled.",
        )
    if requested == "Auto":
        return base.can_checkpoint and base.parameters >= _CHECKPOINTED
    return requested == "Enabled"


def _check_batch(batch: int, micro: int | None, world: int, rows: int) -> None:
    unit, least = (world * micro, world * micro) if micro else (1, world)
    if batch > rows:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchTooLarge",
            f"training.batchSize: {batch} rows, but there are only {rows} training rows.",
            f"Set training.batchSize to {rows // unit * unit} or less."
            if rows >= least
            else "Use fewer processes or more training rows.",
        )
    if batch < world:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchTooSmall",
            f"training.batchSize: {batch} rows, but each of the {world} processes needs a row.",
            f"Set training.batchSize to {least} or more, or use fewer processes.",
        )
    if micro and batch % unit:
        divisors = [size for size in range(1, batch // world + 1) if batch % (world * size) == 0]
        smaller = f"microBatchSize {_format_choices(divisors[-6:])}, " if divisors else ""
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "BatchIndivisible",
            f"training.batchSize: {batch} rows cannot be divided into micro-batches of {micro} rows"
            f" (training.microBatchSize) on {world} processes.",
            f"Use {smaller}microBatchSize Auto, or batchSize"
            f" {_format_choices(_list_near_multiples(batch, unit))}.",
        )


def _list_near_multiples(value: int, unit: int) -> list[int]:
    """Returns the positive multiples of a unit next to a value."""
    low = value // unit * unit
    return [multiple for multiple in (low, low + unit) if multiple > 0]


def _format_choices(numbers: Sequence[int]) -> str:
    texts = [str(number) for number in numbers]
    return texts[0] if len(texts) == 1 else ", ".join(texts[:-1]) + " or " + texts[-1]
