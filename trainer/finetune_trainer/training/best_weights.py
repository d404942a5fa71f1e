"""Loads the best weights of a run from their checkpoint, in the data type of the published weights."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
import torch.distributed as dist

from finetune_trainer.checkpoints.documents import UnusableCheckpointError
from finetune_trainer.checkpoints.files import Part
from finetune_trainer.checkpoints.listing import read_checkpoint
from finetune_trainer.checkpoints.reading import CheckpointReader
from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.models.weights import full_shape, trained_tensors, whole_parameters
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store
from finetune_trainer.training.distributed import Gang, broadcast_object, gather_objects, wait_for_all

Named = tuple[str, Any]
DAMAGED_CHECKPOINT = "ObjectCorrupt"
"""Reason of the failure of `load` if the checkpoint itself is damaged or incomplete."""
_GROUP_BYTES = 256 * 1024 * 1024
"""Bytes of the weights that rank 0 reads at once, so that small weights share requests."""


def check_rounding(gang: Gang, parts: Sequence[Part], dtype: torch.dtype) -> None:
    """Checks that the published data type can represent the weights. A collective operation.

    Args:
        gang: the process group.
        parts: the parts of this rank; only weights are checked.
        dtype: data type of the published weights.

    Raises:
        StageFailure: class Numerical (WeightsOverflow), on all ranks.
    """
    mine = next(
        (_overflow(part, dtype) for part in parts if part.kind == "weight" and _overflows(part, dtype)), ""
    )
    if problems := [text for text in gather_objects(gang, mine) if text]:
        raise StageFailure(
            FailureClass.NUMERICAL,
            "WeightsOverflow",
            problems[0],
            "lower training.learningRate, or save the base model in bfloat16 or float32",
        )


def _overflows(part: Part, dtype: torch.dtype) -> bool:
    if torch.finfo(dtype).max >= torch.finfo(part.values.dtype).max:
        return False
    return bool((torch.isinf(part.values.to(dtype)) & torch.isfinite(part.values)).any())


def _overflow(part: Part, dtype: torch.dtype) -> str:
    return (
        f"the weight {part.name} has values up to {float(part.values.abs().max()):.3g}, and the largest"
        f" number of {str(dtype).removeprefix('torch.')}, the data type of the base model, is"
        f" {torch.finfo(dtype).max:.3g}"
    )


def load(
    gang: Gang,
    module: torch.nn.Module,
    store: Store,
    folder: str,
    dtype: torch.dtype,
    on_bytes: OnBytes = ignore_bytes,
) -> None:
    """Loads the trained weights of a checkpoint into a module on every rank. A collective operation.

    Args:
        gang: the process group.
        module: a model, whole or sharded (ZeRO-3). Its weights that are not trained must be those of the base
            model.
        store: the output store.
        folder: URI of the checkpoint, with a slash at the end.
        dtype: data type of the published weights, to which the weights are rounded.
        on_bytes: receives the number of bytes of each reading.

    Raises:
        StageFailure: class Storage, on all ranks, if the checkpoint is damaged (DAMAGED_CHECKPOINT) or cannot
            be read. Some weights may have changed.
        AssertionError: the checkpoint has other weights than the model trains.
    """
    trained = list(trained_tensors(module))
    fill: Callable[[list[Part]], None] | None = None
    for group in _groups(trained):
        parts = [_whole_part(name, value) for name, value in group] if gang.first else []
        failure = None
        try:
            if gang.first:
                fill = fill or _reader(store, folder, {name for name, _ in trained}, on_bytes)
                fill(parts)
        except StageFailure as error:
            failure = (error.failure, error.reason, error.message, error.hint)
        # The other ranks give heartbeats while rank 0 reads.
        wait_for_all(gang, partial(on_bytes, 0))
        if failure := broadcast_object(gang, failure):
            raise StageFailure(*failure)
        for number, (_, value) in enumerate(group):
            with whole_parameters([value], change=True):
                if parts:
                    values = parts[number].values
                    rounded = values.to(dtype) if values.is_floating_point() else values
                    value.data.copy_(rounded.view(value.shape))
            if not hasattr(value, "ds_id"):
                dist.broadcast(value.data, src=0)


def _groups(tensors: Iterable[Named]) -> Iterator[list[Named]]:
    """Groups tensors in their order, up to _GROUP_BYTES of float32 elements; a larger tensor is alone."""
    group: list[Named] = []
    size = 0
    for name, value in tensors:
        bytes_of_value = 4 * full_shape(value).numel()
        if group and size + bytes_of_value > _GROUP_BYTES:
            yield group
            group, size = [], 0
        group.append((name, value))
        size += bytes_of_value
    if group:
        yield group


def _whole_part(name: str, value: torch.Tensor) -> Part:
    """The part for all elements of a tensor; parameters are float32 in a checkpoint."""
    is_buffer = not isinstance(value, torch.nn.Parameter)
    dtype = value.dtype if is_buffer else torch.float32
    values = torch.empty(full_shape(value).numel(), dtype=dtype)
    return Part("buffer" if is_buffer else "weight", name, 0, values)


def _reader(store: Store, folder: str, trained: set[str], on_bytes: OnBytes) -> Callable[[list[Part]], None]:
    """Opens a checkpoint, and returns a function that reads parts."""
    root, name = folder.rstrip("/").rsplit("/", 1)
    checkpoint = read_checkpoint(store, f"{root}/", name)
    if checkpoint is None:
        raise _damaged(f"the manifest of {folder} cannot be read")
    reader = CheckpointReader(store, folder, checkpoint.manifest, on_bytes)
    try:
        names = reader.names
    except UnusableCheckpointError as error:
        raise _damaged(str(error)) from error
    if other := names ^ trained:
        raise AssertionError(f"{folder} has other weights than the model trains: {sorted(other)[:3]}")

    def fill(parts: list[Part]) -> None:
        try:
            reader.fill([part for part in parts if part.kind == "weight"])
            reader.fill([part for part in parts if part.kind == "buffer"], shard=0)
        except UnusableCheckpointError as error:
            raise _damaged(str(error)) from error

    return fill


def _damaged(cause: str) -> StageFailure:
    return StageFailure(
        FailureClass.STORAGE,
        DAMAGED_CHECKPOINT,
        f"the checkpoint with the best weights cannot be read: {cause}",
        "Check the store's disks and the network.",
    )
