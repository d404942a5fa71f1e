"""The choices of Prepare for one Train attempt: with a smaller micro-batch, or with fewer processes. Pure."""

from finetune_operator.api import AttemptStatus
from finetune_trainer.contract import Chosen


def differing_micro_batch(chosen: Chosen, first: Chosen) -> dict[str, int | None]:
    """The fields of AttemptStatus with the micro-batch of an attempt.

    Args:
        chosen: the choices of the attempt.
        first: the choices of Prepare.

    Returns:
        The fields; empty if the micro-batch is that of Prepare.
    """
    ours, theirs = (
        {"micro_batch_size": each.micro_batch_size, "micro_batch_tokens": each.micro_batch_tokens}
        for each in (chosen, first)
    )
    return ours if ours != theirs else {}


def choices_of(attempt: AttemptStatus, first: Chosen) -> Chosen:
    """The choices of an attempt: those of Prepare with the micro-batch of the attempt."""
    if attempt.micro_batch_tokens:
        return first.model_copy(update={"micro_batch_tokens": attempt.micro_batch_tokens})
    if attempt.micro_batch_size:
        return _with_rows(first, attempt.micro_batch_size)
    return first


def halve(chosen: Chosen) -> Chosen | None:
    """The choices with half the micro-batch and the same global batch.

    A budget of tokens stays large enough for a row of maxLength. A number of rows stays a divisor of the
    global batch.

    Returns:
        The choices; None if the micro-batch cannot be halved.
    """
    if tokens := chosen.micro_batch_tokens:
        fewer = max(tokens // 2, chosen.max_length)
        return chosen.model_copy(update={"micro_batch_tokens": fewer}) if fewer < tokens else None
    rows = chosen.micro_batch_size or 1
    return _with_rows(chosen, rows // 2) if rows % 2 == 0 else None


def with_world(chosen: Chosen, world: int) -> Chosen | None:
    """The choices for another number of processes and the same global batch.

    Each process has at least one row of the global batch. A number of rows as the micro-batch has to divide
    the rows of a process.

    Args:
        chosen: the choices.
        world: number of processes.

    Returns:
        The choices; None if the global batch cannot be divided.
    """
    rows = chosen.micro_batch_size
    if world > chosen.batch_size or (rows and chosen.batch_size % (world * rows)):
        return None
    resized = chosen.model_copy(update={"world_size": world})
    return _with_rows(resized, rows) if rows else resized


def describe(chosen: Chosen) -> str:
    """The micro-batch in words, for example `A micro-batch of 512 tokens`."""
    tokens = chosen.micro_batch_tokens
    return f"A micro-batch of {tokens} tokens" if tokens else f"A micro-batch of {chosen.micro_batch_size}"


def _with_rows(chosen: Chosen, rows: int) -> Chosen:
    steps = chosen.batch_size // chosen.world_size // rows
    return chosen.model_copy(update={"micro_batch_size": rows, "accumulation_steps": steps})
