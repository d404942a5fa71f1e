"""Rows as files of every format and compression that can be read."""

import csv
import gzip
import io
import json
from collections.abc import Callable, Sequence

import pyarrow as pa
from pyarrow.parquet import write_table

Texts = Sequence[dict[str, str]]
"""All with the same columns."""


def json_lines(rows: Texts) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def comma_separated(rows: Texts, delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, quoting=csv.QUOTE_ALL)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: Texts) -> bytes:
    sink = pa.BufferOutputStream()
    write_table(pa.Table.from_pylist(list(rows)), sink, row_group_size=50)
    return bytes(sink.getvalue())


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


def _packed(write: Callable[[Texts], bytes], pack: Callable[[bytes], bytes]) -> Callable[[Texts], bytes]:
    return lambda rows: pack(write(rows))


FORMATS: dict[str, Callable[[Texts], bytes]] = {
    "rows.jsonl": json_lines,
    "rows.ndjson.gz": _packed(json_lines, gzip.compress),
    "rows.json.zst": _packed(json_lines, zstd),
    "rows.csv": comma_separated,
    "rows.csv.gz": _packed(comma_separated, gzip.compress),
    "rows.tsv.zst": _packed(lambda rows: comma_separated(rows, "\t"), zstd),
    "rows.parquet": parquet,
}
"""By a file name."""
