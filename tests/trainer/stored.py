"""Stores rows that are in memory as prepared rows, without the stage Prepare."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import pyarrow as pa
from pydantic import JsonValue

from finetune_trainer.data.arrays import build_list_array
from finetune_trainer.data.findings import SplitName
from finetune_trainer.data.shard_writer import ShardWriter
from finetune_trainer.data.shards import (
    LABEL_FIELD,
    LOSS_MASK_FIELD,
    ROW_FIELD,
    TOKENS_FIELD,
    Index,
    Prepared,
    Shard,
    Split,
    write_index,
)
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.store import Store

BATCH_ROWS = 2048


def store_prepared(
    store: Store,
    folder: str,
    prepared: Prepared,
    extra: Mapping[str, JsonValue] | None = None,
    on_bytes: OnBytes = ignore_bytes,
) -> Index:
    """Writes rows that are in memory. Writing the same rows again gives the same bytes.

    Args:
        store: that gets the rows.
        folder: their URI, ends in a slash.
        prepared: the rows.
        extra: what index.json keeps beside them.
        on_bytes: is told of the bytes of each shard that have moved; called by another thread.
    """
    splits: dict[SplitName, tuple[Shard, ...]] = {}
    for name in get_args(SplitName):
        split: Split = getattr(prepared, name)
        schema = pa.schema([ROW_FIELD, TOKENS_FIELD, LOSS_MASK_FIELD, LABEL_FIELD])
        with (
            TemporaryDirectory() as scratch,
            ShardWriter(store, folder, name, schema, Path(scratch), on_bytes) as writer,
        ):
            for batch in _batches(split, schema):
                writer.write(batch)
            splits[name] = writer.finish()
    index = Index(
        labels=prepared.labels,
        splits=splits,
        files={name: getattr(prepared, name).files for name in get_args(SplitName)},
        extra=dict(extra or {}),
    )
    write_index(store, folder, index)
    return index


def _batches(split: Split, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(split), BATCH_ROWS):
        rows = range(start, min(start + BATCH_ROWS, len(split)))
        spans = [slice(split.offsets[row], split.offsets[row + 1]) for row in rows]
        columns = [
            pa.array(split.rows[rows.start : rows.stop], pa.int64()),
            build_list_array([split.tokens[span] for span in spans], TOKENS_FIELD.type),
            build_list_array([split.loss_mask[span] for span in spans], LOSS_MASK_FIELD.type),
            pa.array(split.labels[rows.start : rows.stop], pa.int32()),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
