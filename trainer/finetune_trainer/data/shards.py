"""The prepared rows in S3: Prepare writes the shards while it reads, and every rank maps the shards.

Folder: `<split>-<n>.arrow` shards (Arrow IPC files, not compressed), then `index.json`, written last, with
the SHA-256 of each shard. A task says which columns its shards have; those named here are known to all
tasks. No torch here.
"""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Annotated, Any, Self, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, JsonValue, NonNegativeInt, ValidationError

from finetune_trainer.contract import Digest, FailureClass, Model
from finetune_trainer.data.arrays import Column, Ragged, Values, column
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.lines import ONE_FILE, FileSpan, location
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.digests import OnBytes, digest_of_file, ignore_bytes
from finetune_trainer.s3.store import Store

INDEX = "index.json"
SHARD_BYTES = 64 * 1024 * 1024
"""A shard is closed when its columns hold so many."""
ROW, TOKENS, LOSS_MASK, LABEL = "row", "tokens", "loss_mask", "label"
ROW_FIELD = pa.field(ROW, pa.int64())
"""1-based line of the row, counted on through the files of its split; every shard has the column."""
TOKENS_FIELD = pa.field(TOKENS, pa.list_(pa.int32()))
"""Token ids."""
LOSS_MASK_FIELD = pa.field(LOSS_MASK, pa.list_(pa.uint8()))
"""1 for each token that is learnt, else 0; as long as the tokens. Missing: no token is learnt."""
LABEL_FIELD = pa.field(LABEL, pa.int32())
"""Index into `Prepared.labels`. Missing: 0 for all rows."""
_BATCH_ROWS = 2048
_COMMON = (ROW, TOKENS, LOSS_MASK, LABEL)


@dataclass(frozen=True)
class Split:
    """Rows of one split; row i has the tokens `tokens[offsets[i]:offsets[i + 1]]`."""

    tokens: Values[np.int32]
    """Token ids of all rows, end to end: in memory, or mapped from the shards."""
    offsets: npt.NDArray[np.int64]
    """Length n + 1."""
    labels: npt.NDArray[np.int32]
    """Index into `Prepared.labels`, 0 for a task without classes; length n."""
    rows: npt.NDArray[np.int64]
    """1-based line of the row, counted on through the files of its split; length n."""
    loss_mask: Values[np.bool_]
    """Which tokens are to be learnt, none for a task that learns no tokens; as long as `tokens`."""
    files: tuple[FileSpan, ...] = ONE_FILE
    """Where `rows` begin to count in which file."""
    more: Mapping[str, Column] = field(default_factory=dict)
    """The columns that only this task has, by name; each has n rows."""

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, shape [n]; computed once."""
        return np.diff(self.offsets).astype(np.int64)

    def location(self, index: int) -> tuple[str, int]:
        """File and 1-based line that a row comes from."""
        return location(int(self.rows[index]), self.files)

    def locations(self) -> list[tuple[str, int]]:
        """File and 1-based line that each row comes from."""
        return [self.location(index) for index in range(len(self))]

    def row(self, index: int) -> npt.NDArray[np.int32]:
        """The token ids of one row."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]


@dataclass(frozen=True)
class Prepared:
    """Everything that training and evaluation read."""

    train: Split
    validation: Split
    test: Split
    labels: tuple[str, ...]
    """Class names; their order is the order of the head's outputs."""


class Shard(Model):
    """One file of a split."""

    file: Annotated[str, Field(pattern=r"^[a-z]+-[0-9]{5}\.arrow$")]
    digest: Digest
    size: NonNegativeInt
    """Bytes."""
    rows: NonNegativeInt
    tokens: NonNegativeInt
    """0 for a task without tokens."""


class Index(Model):
    """What index.json says. It exists only beside all of its shards."""

    labels: tuple[str, ...]
    splits: dict[SplitName, tuple[Shard, ...]]
    files: dict[SplitName, tuple[FileSpan, ...]]
    """Of each split, in the order in which its rows are counted."""
    extra: dict[str, JsonValue] = {}
    """What Prepare keeps with the shards."""


class ShardWriter:
    """Writes the rows of one split as they come; a shard is uploaded while the next is made.

    Use as a context manager: leaving the block ends the upload in progress and deletes the local files.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        split: SplitName,
        schema: pa.Schema,
        scratch: Path,
        on_bytes: OnBytes = ignore_bytes,
    ) -> None:
        """Writes nothing yet.

        Args:
            store: where the shards go.
            folder: URI, ends in a slash.
            split: whose rows they are.
            schema: columns of every record batch, ROW_FIELD first.
            scratch: existing folder on this machine's disk; holds two shards at most.
            on_bytes: is told of the bytes of each shard that have moved; called by another thread.
        """
        self._store, self._folder, self._split, self._schema = store, folder, split, schema
        self._on_bytes = on_bytes
        self._local = TemporaryDirectory(dir=scratch, prefix=f"{split}-")
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="shard-upload")
        self._pending: Future[Shard] | None = None
        self._shards: list[Shard] = []
        self._begin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uploads.shutdown(wait=True, cancel_futures=True)
        self._sink.close()
        self._local.cleanup()

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows of the writer's schema.

        Raises:
            StageFailure: Storage, an upload failed.
        """
        self._file.write_batch(batch)
        self._rows += batch.num_rows
        if TOKENS in batch.schema.names:
            self._tokens += len(batch.column(TOKENS).values)
        self._bytes += batch.nbytes
        if self._bytes >= SHARD_BYTES:
            self._end()
            self._begin()

    def finish(self) -> tuple[Shard, ...]:
        """Uploads what is left; a split without rows has one shard without rows.

        Raises:
            StageFailure: Storage, an upload failed.
        """
        number = len(self._shards) + (self._pending is not None)
        if self._rows or not number:
            self._end()
        self._settle()
        return tuple(self._shards)

    def _begin(self) -> None:
        self._rows = self._tokens = self._bytes = 0
        number = len(self._shards) + (self._pending is not None)
        self._path = Path(self._local.name) / f"{self._split}-{number:05d}.arrow"
        self._sink = pa.OSFile(str(self._path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)

    def _end(self) -> None:
        self._file.close()
        self._sink.close()
        # One upload at a time: the disk never holds more than two shards of a split.
        self._settle()
        self._pending = self._uploads.submit(self._upload, self._path, self._rows, self._tokens)

    def _settle(self) -> None:
        if self._pending is not None:
            self._shards.append(self._pending.result())
            self._pending = None

    def _upload(self, path: Path, rows: int, tokens: int) -> Shard:
        size = path.stat().st_size
        digest = self._store.upload(path, self._folder + path.name, self._on_bytes).digest
        path.unlink()
        return Shard(file=path.name, digest=digest, size=size, rows=rows, tokens=tokens)


def write_index(store: Store, folder: str, index: Index) -> None:
    """Makes the folder complete: every shard that the index names must be stored already."""
    store.write(folder + INDEX, index.model_dump_json(by_alias=True).encode())


def read_index(store: Store, folder: str) -> Index | None:
    """The index of a complete folder whose shards are all still there; None if it is not complete."""
    there = {entry.uri: entry.size for entry in store.list(folder)}
    if folder + INDEX not in there:
        return None
    try:
        index = Index.model_validate_json(store.read(folder + INDEX))
    except ValidationError:
        return None
    shards = [shard for split in index.splits.values() for shard in split]
    return index if all(there.get(folder + shard.file) == shard.size for shard in shards) else None


def load_prepared(store: Store, folder: str, paths: Paths, on_bytes: OnBytes = ignore_bytes) -> Prepared:
    """Maps the shards from the node's cache; every byte is checked against the index.

    Tokens and other lists stay on disk until they are read; 28 bytes of each row are in memory.

    Args:
        store: that has the prepared rows.
        folder: their URI, ends in a slash.
        paths: of the cache.
        on_bytes: is told of the bytes that move or are checked.

    Raises:
        StageFailure: PreparedMissing (no complete folder), PreparedCorrupt (a digest or a column is wrong).
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
        _mapped(
            {
                folder + shard.file: _fetch(store, folder, shard, cache, on_bytes)
                for shard in index.splits.get(name, ())
            },
            index.files[name],
        )
        for name in get_args(SplitName)
    )
    return Prepared(train, validation, test, index.labels)


def _fetch(store: Store, folder: str, shard: Shard, cache: Path, on_bytes: OnBytes) -> Path:
    # The name is the content's digest: what another job cached is either right or fetched again.
    path = cache / f"{shard.digest.removeprefix('sha256:')}.arrow"
    if not path.exists() or digest_of_file(path, on_bytes) != shard.digest:
        got = store.download(folder + shard.file, path, on_bytes=on_bytes)
        if got.digest != shard.digest:
            path.unlink()
            raise _corrupt(folder + shard.file, f"its SHA-256 is {got.digest}, the index says {shard.digest}")
    return path


def _mapped(shards: Mapping[str, Path], files: tuple[FileSpan, ...]) -> Split:
    batches: list[pa.RecordBatch] = []
    for uri, path in shards.items():
        try:
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            schema = batches[0].schema if batches else reader.schema
            if reader.schema != schema or ROW not in schema.names:
                raise pa.ArrowInvalid("its columns are not those of the split")
            batches += [reader.get_batch(number) for number in range(reader.num_record_batches)]
        except (pa.ArrowException, OSError) as error:
            raise _corrupt(uri, str(error)) from None
    schema = batches[0].schema if batches else pa.schema([ROW_FIELD])
    try:
        columns = {
            of.name: column(of, [batch.column(number) for batch in batches])
            for number, of in enumerate(schema)
        }
        return _split(columns, files)
    except pa.ArrowException as error:
        raise _corrupt(next(iter(shards)), str(error)) from None


def _split(columns: Mapping[str, Column], files: tuple[FileSpan, ...]) -> Split:
    rows = _numbers(columns[ROW])
    nothing = Ragged(np.zeros(0, np.int32), np.zeros(len(rows) + 1, np.int64))
    tokens = _lists(columns.get(TOKENS, nothing))
    # A view of one False: a task that learns no tokens pays nothing for the mask.
    unlearnt = Ragged(np.broadcast_to(np.False_, len(tokens.values)), tokens.offsets)
    loss_mask = _lists(columns.get(LOSS_MASK, unlearnt))
    if not np.array_equal(loss_mask.offsets, tokens.offsets):
        raise pa.ArrowInvalid("a row has not as many entries in loss_mask as in tokens")
    return Split(
        tokens=tokens.values,
        offsets=tokens.offsets,
        labels=_numbers(columns.get(LABEL, np.zeros(len(rows), np.int32))),
        rows=rows,
        loss_mask=_truth(loss_mask.values),
        files=files,
        more={name: values for name, values in columns.items() if name not in _COMMON},
    )


def _numbers(values: Column) -> npt.NDArray[Any]:
    if isinstance(values, Ragged):
        raise pa.ArrowInvalid("a column of numbers holds lists")
    return values


def _lists(values: Column) -> Ragged:
    if not isinstance(values, Ragged):
        raise pa.ArrowInvalid("a column of lists holds numbers")
    return values


def _truth(values: Values[Any]) -> Values[np.bool_]:
    return values.view(np.bool_)


def _corrupt(uri: str, why: str) -> StageFailure:
    return StageFailure(
        FailureClass.STORAGE,
        "PreparedCorrupt",
        f"{uri} is damaged: {why}.",
        "Check the store's disks; delete the object's folder and apply the job again.",
    )
