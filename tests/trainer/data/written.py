"""Rows as files of every format and compression that can be read."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow as pa
from pyarrow.parquet import write_table

Rows = Sequence[dict[str, Any]]
"""Of texts, all with the same columns; JSON Lines and Parquet take any."""


def json_lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma_separated(rows: Rows, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    sink, every = pa.BufferOutputStream(), dict.fromkeys(name for row in rows for name in row)
    write_table(pa.Table.from_pylist([every | row for row in rows]), sink, row_group_size=50)
    return bytes(sink.getvalue())


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


def _packed(write: Callable[[Rows], bytes], pack: Callable[[bytes], bytes]) -> Callable[[Rows], bytes]:
    return lambda rows: pack(write(rows))


FORMATS: dict[str, Callable[[Rows], bytes]] = {
    "rows.jsonl": json_lines,
    "rows.ndjson.gz": _packed(json_lines, gzip.compress),
    "rows.json.zst": _packed(json_lines, zstd),
    "rows.csv": comma_separated,
    "rows.csv.gz": _packed(comma_separated, gzip.compress),
    "rows.tsv.zst": _packed(lambda rows: comma_separated(rows, "\t"), zstd),
    "rows.parquet": parquet,
}
"""By a file name."""
