"""IO: writes the prepared rows of one split to shards in S3."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Self

import pyarrow as pa

from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.shards import TOKENS, Shard
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store

SHARD_BYTES = 64 * 1024 * 1024
"""A shard ends when its columns reach this size."""


class ShardWriter:
    """Writes record batches to shards; uploads a shard while the next shard is written.

    On exit, the context manager waits for the current upload and deletes the local files.
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
        """Creates the local file of the first shard.

        Args:
            store: store of the prepared rows.
            folder: URI of the prepared rows, ends in a slash.
            split: name of the split.
            schema: columns of every record batch, ROW_FIELD first.
            scratch: existing local folder for at most two shards.
            on_bytes: called in another thread with the number of uploaded bytes.
        """
        self._store, self._folder, self._split, self._schema = store, folder, split, schema
        self._on_bytes = on_bytes
        self._local = TemporaryDirectory(dir=scratch, prefix=f"{split}-")
        self._uploads = ThreadPoolExecutor(1, thread_name_prefix="shard-upload")
        self._pending: Future[Shard] | None = None
        self._shards: list[Shard] = []
        self._open_shard()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._uploads.shutdown(wait=True, cancel_futures=True)
        self._sink.close()
        self._local.cleanup()

    def write(self, batch: pa.RecordBatch) -> None:
        """Adds rows.

        Args:
            batch: a record batch with the schema of the writer.

        Raises:
            StageFailure: Storage, if an upload failed.
        """
        self._file.write_batch(batch)
        self._rows += batch.num_rows
        if TOKENS in batch.schema.names:
            self._tokens += len(batch.column(TOKENS).values)
        self._bytes += batch.nbytes
        if self._bytes >= SHARD_BYTES:
            self._close_shard()
            self._open_shard()

    def finish(self) -> tuple[Shard, ...]:
        """Uploads the last shard and returns all shards. A split without rows has one empty shard.

        Raises:
            StageFailure: Storage, if an upload failed.
        """
        number = len(self._shards) + (self._pending is not None)
        if self._rows or not number:
            self._close_shard()
        self._wait_for_upload()
        return tuple(self._shards)

    def _open_shard(self) -> None:
        self._rows = self._tokens = self._bytes = 0
        number = len(self._shards) + (self._pending is not None)
        self._path = Path(self._local.name) / f"{self._split}-{number:05d}.arrow"
        self._sink = pa.OSFile(str(self._path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)

    def _close_shard(self) -> None:
        self._file.close()
        self._sink.close()
        # Wait for the previous upload, so that at most two shards are on disk.
        self._wait_for_upload()
        self._pending = self._uploads.submit(self._upload, self._path, self._rows, self._tokens)

    def _wait_for_upload(self) -> None:
        if self._pending is not None:
            self._shards.append(self._pending.result())
            self._pending = None

    def _upload(self, path: Path, rows: int, tokens: int) -> Shard:
        size = path.stat().st_size
        digest = self._store.upload(path, self._folder + path.name, self._on_bytes).digest
        path.unlink()
        return Shard(file=path.name, digest=digest, size=size, rows=rows, tokens=tokens)
