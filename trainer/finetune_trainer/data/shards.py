"""The format of the prepared rows in S3, and the loader that memory-maps the shards. Imports no torch.

A folder contains the shards `<split>-<n>.arrow` (uncompressed Arrow IPC files) and `index.json`, which is
written last and contains the SHA-256 of each shard. Each task defines the columns of its shards; this module
defines the columns that all tasks share.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue, NonNegativeInt, ValidationError

from finetune_trainer.contract import Digest, FailureClass, Model
from finetune_trainer.data.arrays import Column, Ragged, Values, read_column
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.lines import ONE_FILE, FileSpan, locate
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes, digest_of_file, ignore_bytes
from finetune_trainer.s3.store import Store

INDEX = "index.json"
ROW, TOKENS, LOSS_MASK, LABEL = "row", "tokens", "loss_mask", "label"
ROW_FIELD = pa.field(ROW, pa.int64())
"""1-based line of the row, continued over the files of the split; every shard has this column."""
TOKENS_FIELD = pa.field(TOKENS, pa.list_(pa.int32()))
"""Token ids."""
LOSS_MASK_FIELD = pa.field(LOSS_MASK, pa.list_(pa.uint8()))
"""1 for each token that contributes to the loss, otherwise 0. Without this column, no token contributes."""
LABEL_FIELD = pa.field(LABEL, pa.int32())
"""Index into `Prepared.labels`. Without this column, the index is 0 for all rows."""
_BATCH_ROWS = 2048
_COMMON = (ROW, TOKENS, LOSS_MASK, LABEL)


@dataclass(frozen=True)
class Split:
    """The rows of one split; row i has the tokens `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: Values[np.int32]
    """Token ids of all rows, concatenated; shape [tokens]. In memory or memory-mapped."""
    offsets: npt.NDArray[np.int64]
    """Shape [rows + 1]."""
    labels: npt.NDArray[np.int32]
    """Index into `Prepared.labels` of each row, 0 for a task without classes; shape [rows]."""
    rows: npt.NDArray[np.int64]
    """1-based line of each row, continued over the files of the split; shape [rows]."""
    loss_mask: Values[np.bool_]
    """Whether each token contributes to the loss; shape [tokens]."""
    files: tuple[FileSpan, ...] = ONE_FILE
    """Row numbers of each file."""
    more: Mapping[str, Column] = field(default_factory=dict)
    """The task's own columns by name, each with one value or list for each row."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Number of tokens of each row, shape [rows]."""
        return np.diff(self.offsets).astype(np.int64)

    def location(self, index: int) -> tuple[str, int]:
        """Returns the file and the 1-based line of a row."""
        return locate(int(self.rows[index]), self.files)

    def locations(self) -> list[tuple[str, int]]:
        """Returns the file and the 1-based line of each row."""
        return [self.location(index) for index in range(len(self))]

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """Returns the token ids of a row, shape [tokens of the row]."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Prepared:
    """The rows of all splits, for training and evaluation."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    """Class names in the order of the outputs of the head."""


class Shard(Model):
    """One file of a split."""

    file: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5}\.arrow$")]
    digest: Digest
    size: NonNegativeInt
    """Bytes."""
    rows: NonNegativeInt
    tokens: NonNegativeInt
    """Number of tokens; 0 for a task without tokens."""


class Index(Model):
    """The content of index.json, which is written after all shards."""

    labels: tuple[str, ...]
    splits: dict[SplitName, tuple[Shard, ...]]
    files: dict[SplitName, tuple[FileSpan, ...]]
    """Row numbers of the files of each split, in the order of the files."""
    extra: dict[str, JsonValue] = {}
    """Further values that Prepare stores for later attempts."""


def write_index(store: Store, folder: str, index: Index) -> None:
    """Writes the index, which completes the folder. All shards of the index must be in the store."""
    store.write(folder + INDEX, index.model_dump_json(by_alias=True).encode())


def read_index(store: Store, folder: str) -> Index | None:
    """Reads the index of a folder.

    Returns:
        None if the index is missing or invalid, or if a shard is missing or has another size.
    """
    sizes = {entry.uri: entry.size for entry in store.list(folder)}
    if folder + INDEX not in sizes:
        return None
    try:
        index = Index.model_validate_json(store.read(folder + INDEX))
    except ValidationError:
        return None
    shards = [shard for split in index.splits.values() for shard in split]
    return index if all(sizes.get(folder + shard.file) == shard.size for shard in shards) else None


def load_prepared(store: Store, folder: str, paths: Paths, on_bytes: OnBytes = ignore_bytes) -> Prepared:
    """Downloads the shards to the cache of the node, verifies the digests, and memory-maps the shards.

    Lists, such as tokens, stay on disk. The other columns take 28 bytes of memory for each row.

    Args:
        store: store of the prepared rows.
        folder: URI of the prepared rows, ends in a slash.
        paths: paths of the pod.
        on_bytes: called with the number of transferred or verified bytes.

    Raises:
        StageFailure: PreparedMissing (no complete folder), PreparedCorrupt (a wrong digest or column).
    """
    index = read_index(store, folder)
    if index is None:
        raise StageFailure(
            FailureClass.STORAGE,
            "PreparedMissing",
            f"{folder} holds no complete prepared data.",
            "Something deleted it; apply the job again under another name.",
        )
    cache = paths.cache / "prepared"
    train, validation, test = (
        _map_split(
            {
                folder + shard.file: _fetch_shard(store, folder, shard, cache, on_bytes)
                for shard in index.splits.get(name, ())
            },
            index.files[name],
        )
        for name in get_args(SplitName)
    )
    return Prepared(train, validation, test, index.labels)


def _fetch_shard(store: Store, folder: str, shard: Shard, cache: Path, on_bytes: OnBytes) -> Path:
    # The file name is the digest. A file of another job is verified, and downloaded again if the file is
    # wrong.
    path = cache / f"{shard.digest.removeprefix('sha256:')}.arrow"
    if not path.exists() or digest_of_file(path, on_bytes) != shard.digest:
        transfer = store.download(folder + shard.file, path, on_bytes=on_bytes)
        if transfer.digest != shard.digest:
            path.unlink()
            raise _corrupt_failure(
                folder + shard.file, f"its SHA-256 is {transfer.digest}, the index says {shard.digest}"
            )
    return path


def _map_split(shards: Mapping[str, Path], files: tuple[FileSpan, ...]) -> Split:
    batches: list[pa.RecordBatch] = []
    for uri, path in shards.items():
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            schema = batches[0].schema if batches else reader.schema
            if reader.schema != schema or ROW not in schema.names:
                raise pa.ArrowInvalid("its columns are not those of the split")
            batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise _corrupt_failure(uri, str(error)) from None
    schema = batches[0].schema if batches else pa.schema([ROW_FIELD])
    try:
        columns = {
            of.name: read_column(of, [batch.column(number) for batch in batches])
            for number, of in enumerate(schema)
        }
        return _build_split(columns, files)
    except pa.ArrowException as error:
        raise _corrupt_failure(next(iter(shards)), str(error)) from None


def _build_split(columns: Mapping[str, Column], files: tuple[FileSpan, ...]) -> Split:
    rows = _require_numbers(columns[ROW])
    nothing = Ragged(np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64))
    tokens = _require_lists(columns.get(TOKENS, nothing))
    # A broadcast view of a single False needs no memory.
    no_loss = Ragged(np.broadcast_to(np.False_, len(tokens.values)), tokens.offsets)
    loss_mask = _require_lists(columns.get(LOSS_MASK, no_loss))
    if not np.array_equal(loss_mask.offsets, tokens.offsets):
        raise pa.ArrowInvalid("a row has not as many entries in loss_mask as in tokens")
    return Split(
        tokens=tokens.values,
        offsets=tokens.offsets,
        labels=_require_numbers(columns.get(LABEL, np.zeros(len(rows), np.int32))),
        rows=rows,
        loss_mask=_truth(loss_mask.values),
        files=files,
        more={name: values for name, values in columns.items() if name not in _COMMON},
    )


def _require_numbers(values: Column) -> npt.NDArray[Any]:
    if isinstance(values, Ragged):
        raise pa.ArrowInvalid("a column of numbers holds lists")
    return values


def _require_lists(values: Column) -> Ragged:
    if not isinstance(values, Ragged):
        raise pa.ArrowInvalid("a column of lists holds numbers")
    return values


def _truth(values: Values[Any]) -> Values[np.bool_]:
    return values.view(np.bool_)


def _corrupt_failure(uri: str, why: str) -> StageFailure:
    return StageFailure(
        FailureClass.STORAGE,
        "PreparedCorrupt",
        f"{uri} is damaged: {why}.",
        "Check the store's disks; delete the object's folder and apply the job again.",
    )
