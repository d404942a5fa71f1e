"""IO: tokenizes the usable rows of a split and writes the record batches of its shards.

The first pass encodes every row whole and keeps the tokens in a scratch file, so that a length can be chosen
that suits the training rows. The second pass cuts the rows to that length. Of each row 8 bytes are in memory.
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

from finetune_trainer.data.arrays import lists
from finetune_trainer.data.data_report import Lengths
from finetune_trainer.data.doctor import Refused
from finetune_trainer.data.example import Encoding
from finetune_trainer.data.findings import LISTED
from finetune_trainer.data.pace import Pace
from finetune_trainer.data.rows import Part
from finetune_trainer.data.shards import LABEL, LOSS_MASK, ROW, ROW_FIELD, TOKENS

SHOWN_ROWS = 3
"""Training rows that the report shows as the model reads them."""
NUMBER_FIELD = pa.field("number", pa.uint32())
"""Place of a row in its Rows."""
Encode = Callable[[Sequence[Any]], list[Encoding]]
"""Examples -> each row whole."""
Cut = Callable[[Sequence[Any], Sequence[Encoding]], list[Encoding]]
"""Examples and their encodings -> the rows, cut to a length."""
Refusal = Callable[[Encoding], tuple[str, str] | None]
"""See tasks.base.TaskData.refusal."""


@dataclass
class Refusals:
    """Rows of a split that cannot be learnt, by code."""

    what: Mapping[str, str]
    """See tasks.base.TaskData.REFUSALS."""
    found: dict[str, Refused] = field(default_factory=dict)

    def add(self, code: str, line: int, why: str) -> None:
        """Counts a row."""
        self.found.setdefault(code, Refused(self.what[code])).add(line, why)

    @property
    def count(self) -> int:
        """Rows of all codes."""
        return sum(refused.count for refused in self.found.values())


@dataclass
class Unlearnt:
    """Messages that were to be learnt, and are not, because they cannot be found in their rows."""

    rows: int = 0
    messages: int = 0
    first: list[tuple[int, int]] = field(default_factory=list)
    """Line and such messages of the first rows."""

    def add(self, line: int, messages: int) -> None:
        """Counts a row."""
        self.rows += 1
        self.messages += messages
        if len(self.first) < LISTED:
            self.first.append((line, messages))


@dataclass(frozen=True)
class Whole:
    """The rows of a split, encoded whole, in a scratch file."""

    part: Part
    path: Path
    lengths: Lengths
    """Tokens of each row that was encoded."""
    unlearnt: Unlearnt


def encode_whole(
    part: Part,
    schema: pa.Schema,
    encode: Encode,
    refusals: Refusals,
    refusal: Refusal,
    path: Path,
    pace: Pace,
) -> Whole:
    """Encodes every row of a split; rows that have no encoding are counted in `refusals`.

    Args:
        part: the rows.
        schema: columns of the task; the row and the label are left out of the scratch file.
        encode: makes the encodings of some rows.
        refusals: grows.
        refusal: says why a row has no encoding.
        path: of the scratch file.
        pace: told of every batch.
    """
    kept = pa.schema([NUMBER_FIELD, *(of for of in schema if of.name not in (ROW, LABEL))])
    lengths, unlearnt = array("i"), Unlearnt()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, kept) as file:
        for numbers, examples in part.batches():
            encoded = encode(examples)
            there = [place for place, row in enumerate(encoded) if not row.fault]
            for place, row in enumerate(encoded):
                if row.fault and (why := refusal(row)):
                    refusals.add(why[0], examples[place].line, why[1])
                if row.unlearnt:
                    unlearnt.add(examples[place].line, row.unlearnt)
            rows = [encoded[place] for place in there]
            file.write_batch(record_batch(kept, rows, {NUMBER_FIELD.name: numbers[there]}))
            lengths.extend(len(row.ids) for row in rows)
            pace.done(len(encoded), sum(len(row.ids) for row in rows))
    array_ = np.frombuffer(lengths, np.int32) if lengths else np.zeros(0, np.int32)
    return Whole(part, path, Lengths(array_), unlearnt)


@dataclass
class CutRows:
    """The second pass over a split; iterate `batches`, then read what was counted."""

    whole: Whole
    schema: pa.Schema
    """Columns of the shards, ROW_FIELD first."""
    max_length: int
    cut: Cut
    labels: Callable[[npt.NDArray[np.int32]], npt.NDArray[np.int32]]
    """Numbers of strata -> numbers of classes."""
    refusals: Refusals
    refusal: Refusal
    rows: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    shown: list[tuple[Any, Encoding]] = field(default_factory=list)
    """The first rows, with their examples."""

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Rows of at most `max_length` tokens, in the order of the files."""
        part = self.whole.part.rows
        with pa.OSFile(str(self.whole.path)) as file:
            content = pa.ipc.open_file(file)
            for index in range(content.num_record_batches):
                batch = content.get_batch(index)
                numbers, encoded = batch.column(0).to_numpy(), encodings(batch)
                self._shorten(numbers, encoded)
                there = []
                for place, row in enumerate(encoded):
                    if why := self.refusal(row):
                        self.refusals.add(why[0], part.line(int(numbers[place])), why[1])
                    else:
                        there.append(place)
                rows, kept = [encoded[place] for place in there], numbers[there]
                self._count(kept, rows)
                yield record_batch(
                    self.schema, rows, {ROW: part.lines[kept], LABEL: self.labels(part.strata[kept])}
                )

    def _shorten(self, numbers: npt.NDArray[np.uint32], encoded: list[Encoding]) -> None:
        long = [place for place, row in enumerate(encoded) if len(row.ids) > self.max_length]
        if long:
            examples = self.whole.part.rows.examples(numbers[long])
            shorter = self.cut(examples, [encoded[place] for place in long])
            for place, row in zip(long, shorter, strict=True):
                encoded[place] = row

    def _count(self, numbers: npt.NDArray[np.uint32], rows: Sequence[Encoding]) -> None:
        self.rows += len(rows)
        self.tokens += sum(len(row.ids) for row in rows)
        self.trained_tokens += sum(int(row.loss_mask.sum()) for row in rows if row.loss_mask is not None)
        if missing := SHOWN_ROWS - len(self.shown):
            examples = self.whole.part.rows.examples(numbers[:missing])
            self.shown += zip(examples, rows, strict=False)


def record_batch(
    schema: pa.Schema, rows: Sequence[Encoding], numbers: Mapping[str, npt.NDArray[Any]]
) -> pa.RecordBatch:
    """Encodings as columns.

    Args:
        schema: names and types of the columns.
        rows: the encodings.
        numbers: the columns that are in no encoding.
    """
    columns = []
    for of in schema:
        if of.name in numbers:
            columns.append(pa.array(numbers[of.name], of.type))
        elif of.name == TOKENS:
            columns.append(lists([row.ids for row in rows], of.type))
        elif of.name == LOSS_MASK:
            columns.append(lists([_mask(row) for row in rows], of.type))
        elif pa.types.is_list(of.type):
            columns.append(lists([np.asarray(row.more[of.name]) for row in rows], of.type))
        else:
            columns.append(pa.array([row.more[of.name] for row in rows], of.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def encodings(batch: pa.RecordBatch) -> list[Encoding]:
    """The inverse of `record_batch`."""
    columns = {of.name: _rows(batch.column(place)) for place, of in enumerate(batch.schema)}
    tokens = columns.get(TOKENS) or [np.zeros(0, np.int32)] * batch.num_rows
    masks = columns.get(LOSS_MASK)
    own = {name: rows for name, rows in columns.items() if name not in (NUMBER_FIELD.name, TOKENS, LOSS_MASK)}
    return [
        Encoding(
            ids,
            masks[place].view(np.bool_) if masks else None,
            more={name: rows[place] for name, rows in own.items()},
        )
        for place, ids in enumerate(tokens)
    ]


def shard_schema(schema: pa.Schema) -> pa.Schema:
    """The columns of a task's shards."""
    return pa.schema([ROW_FIELD, *schema])


def _mask(row: Encoding) -> npt.NDArray[np.uint8]:
    return np.zeros(len(row.ids), np.uint8) if row.loss_mask is None else row.loss_mask.view(np.uint8)


def _rows(column: pa.Array) -> list[Any]:
    if not pa.types.is_list(column.type):
        found: list[Any] = column.to_numpy(zero_copy_only=False).tolist()
        return found
    # A copy, for a task may write to what it is given, and Arrow gives memory that nobody may write to.
    values = column.values.to_numpy().copy()
    edges = column.offsets.to_numpy().tolist()
    return [values[start:end] for start, end in pairwise(edges)]
