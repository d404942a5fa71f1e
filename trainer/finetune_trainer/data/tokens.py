"""IO: tokenizes the usable rows of a split, and truncates the rows for the shards.

The first pass tokenizes every row without truncation, and writes the tokens to a scratch file. The maximum
length depends on the lengths of the training rows. The second pass truncates the rows to this length. Each
row takes 8 bytes of memory.
"""

from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from finetune_trainer.data.arrays import build_list_array
from finetune_trainer.data.data_checks import RefusedRows
from finetune_trainer.data.data_report import Lengths
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import MAX_LISTED
from finetune_trainer.data.progress import ProgressReporter
from finetune_trainer.data.rows import RowSubset
from finetune_trainer.data.shards import LABEL, LOSS_MASK, ROW, ROW_FIELD, TOKENS

SHOWN_ROWS = 3
"""Number of training rows whose tokens the report shows."""
NUMBER_FIELD = pa.field("number", pa.uint32())
"""Index of a row in its Rows."""
Encode = Callable[[Sequence[Any]], list[Encoding]]
"""Tokenizes examples without truncation."""
Truncate = Callable[[Sequence[Any], Sequence[Encoding]], list[Encoding]]
"""Truncates the encodings of examples."""
Refusal = Callable[[Encoding], tuple[str, str] | None]
"""See tasks.base.TaskData.refusal."""


@dataclass
class Refusals:
    """The refused rows of a split by code."""

    what: Mapping[str, str]
    """See tasks.base.TaskData.REFUSALS."""
    found: dict[str, RefusedRows] = field(default_factory=dict)

    def add(self, code: str, line: int, why: str) -> None:
        """Counts a row."""
        self.found.setdefault(code, RefusedRows(self.what[code])).add(line, why)

    @property
    def count(self) -> int:
        """Number of refused rows."""
        return sum(refused.count for refused in self.found.values())


@dataclass
class UntrainedMessages:
    """Count of the messages without loss because their tokens cannot be located in the rendered rows."""

    rows: int = 0
    messages: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)
    """Line and number of such messages of the first MAX_LISTED rows."""

    def add(self, line: int, messages: int) -> None:
        """Counts a row."""
        self.rows += 1
        self.messages += messages
        if len(self.first) < MAX_LISTED:
            self.first.append((line, messages))


@dataclass(frozen=True)
class EncodedSplit:
    """The rows of a split in a scratch file, tokenized without truncation."""

    part: RowSubset
    path: Path
    lengths: Lengths
    """Number of tokens of each row in the file."""
    untrained: UntrainedMessages


def encode_split(
    part: RowSubset,
    schema: pa.Schema,
    encode: Encode,
    refusals: Refusals,
    refusal: Refusal,
    path: Path,
    progress: ProgressReporter,
) -> EncodedSplit:
    """Tokenizes the rows of a split without truncation.

    Args:
        part: the rows.
        schema: columns of the task; the scratch file does not contain the columns ROW and LABEL.
        encode: tokenizes examples.
        refusals: receives the rows that cannot be tokenized.
        refusal: returns the reason why a row cannot be tokenized.
        path: path of the scratch file.
        progress: receives the number of rows and tokens of each batch.
    """
    kept = pa.schema([NUMBER_FIELD, *(of for of in schema if of.name not in (ROW, LABEL))])
    lengths, untrained = array("i"), UntrainedMessages()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, kept) as file:
        for numbers, examples in part.batches():
            encoded = encode(examples)
            kept_indices = [index for index, row in enumerate(encoded) if not row.fault]
            for index, row in enumerate(encoded):
                if row.fault and (why := refusal(row)):
                    refusals.add(why[0], examples[index].line, why[1])
                if row.untrained:
                    untrained.add(examples[index].line, row.untrained)
            rows = [encoded[index] for index in kept_indices]
            file.write_batch(build_record_batch(kept, rows, {NUMBER_FIELD.name: numbers[kept_indices]}))
            lengths.extend(len(row.ids) for row in rows)
            progress.add(len(encoded), sum(len(row.ids) for row in rows))
    array_ = np.frombuffer(lengths, np.int32) if lengths else np.zeros(0, np.int32)
    return EncodedSplit(part, path, Lengths(array_), untrained)


@dataclass
class TruncatedSplit:
    """The second pass over a split, which truncates rows. The counts are valid after iterating `batches`."""

    whole: EncodedSplit
    schema: pa.Schema
    """Columns of the shards, ROW_FIELD first."""
    max_length: int
    truncate: Truncate
    labels: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]
    """Converts numbers of strata to numbers of classes, both of shape [rows]."""
    refusals: Refusals
    refusal: Refusal
    watched: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    """Ids of tokens that the split looks for, shape [ids]."""
    seen: set[int] = field(default_factory=set)
    """The watched ids that occur in the rows."""
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    shown: list[tuple[Any, Encoding]] = field(default_factory=list)
    """Examples and encodings of the first SHOWN_ROWS rows."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yields the rows in file order, truncated to `max_length` tokens, without refused rows."""
        part = self.whole.part.rows
        with pa.OSFile(str(self.whole.path)) as file:
            content = pa.ipc.open_file(file)
            for batch_index in range(content.num_record_batches):
                batch = content.get_batch(batch_index)
                numbers, encoded = batch.column(0).to_numpy(), read_encodings(batch)
                self._truncate_long_rows(numbers, encoded)
                kept_indices = []
                for index, row in enumerate(encoded):
                    if why := self.refusal(row):
                        self.refusals.add(why[0], part.line(int(numbers[index])), why[1])
                    else:
                        kept_indices.append(index)
                rows, kept = [encoded[index] for index in kept_indices], numbers[kept_indices]
                self._count(kept, rows)
                yield build_record_batch(
                    self.schema, rows, {ROW: part.lines[kept], LABEL: self.labels(part.strata[kept])}
                )

    def _truncate_long_rows(self, numbers: npt.NDArray[np.uint32], encoded: list[Encoding]) -> None:
        long = [index for index, row in enumerate(encoded) if len(row.ids) > self.max_length]
        if long:
            examples = self.whole.part.rows.examples(numbers[long])
            shorter = self.truncate(examples, [encoded[index] for index in long])
            for index, row in zip(long, shorter, strict=True):
                encoded[index] = row

    def _count(self, numbers: npt.NDArray[np.uint32], rows: Sequence[Encoding]) -> None:
        self.rows += len(rows)
        self.tokens += sum(len(row.ids) for row in rows)
        self.trained_tokens += sum(int(row.loss_mask.sum()) for row in rows if row.loss_mask is not None)
        if len(self.watched) and rows:
            self.seen.update(np.intersect1d(self.watched, np.concatenate([row.ids for row in rows])).tolist())
        if missing := SHOWN_ROWS - len(self.shown):
            examples = self.whole.part.rows.examples(numbers[:missing])
            self.shown += zip(examples, rows, strict=False)


def build_record_batch(
    schema: pa.Schema, rows: Sequence[Encoding], numbers: Mapping[str, npt.NDArray[Any]]
) -> pa.RecordBatch:
    """Converts encodings to a record batch; the inverse of `read_encodings`.

    Args:
        schema: names and types of the columns.
        rows: the encodings.
        numbers: columns that are not part of an encoding, each of shape [rows].
    """
    columns = []
    for of in schema:
        if of.name in numbers:
            columns.append(pa.array(numbers[of.name], of.type))
        elif of.name == TOKENS:
            columns.append(build_list_array([row.ids for row in rows], of.type))
        elif of.name == LOSS_MASK:
            columns.append(build_list_array([_loss_mask_of(row) for row in rows], of.type))
        elif pa.types.is_list(of.type):
            columns.append(build_list_array([np.asarray(row.more[of.name]) for row in rows], of.type))
        else:
            columns.append(pa.array([row.more[of.name] for row in rows], of.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def read_encodings(batch: pa.RecordBatch) -> list[Encoding]:
    """Converts a record batch to encodings."""
    columns = {of.name: _column_to_rows(batch.column(index)) for index, of in enumerate(batch.schema)}
    tokens = columns.get(TOKENS) or [np.zeros(0, np.int32)] * batch.num_rows
    masks = columns.get(LOSS_MASK)
    own = {name: rows for name, rows in columns.items() if name not in (NUMBER_FIELD.name, TOKENS, LOSS_MASK)}
    return [
        Encoding(
            ids,
            masks[index].view(np.bool_) if masks else None,
            more={name: rows[index] for name, rows in own.items()},
        )
        for index, ids in enumerate(tokens)
    ]


def build_shard_schema(schema: pa.Schema) -> pa.Schema:
    """Returns the columns of the shards of a task."""
    return pa.schema([ROW_FIELD, *schema])


def _loss_mask_of(row: Encoding) -> npt.NDArray[np.uint8]:
    return np.zeros(len(row.ids), np.uint8) if row.loss_mask is None else row.loss_mask.view(np.uint8)


def _column_to_rows(column: pa.Array) -> list[Any]:
    if not pa.types.is_list(column.type):
        found: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return found
    # A copy, because Arrow memory is read-only and a task may modify encodings.
    values = column.values.to_numpy().copy()
    edges = column.offsets.to_numpy().tolist()
    return [values[start:end] for start, end in pairwise(edges)]
