"""IO: reads the requested columns of a Parquet file in small batches of rows."""

from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import FileMetaData, ParquetFile

from finetune_trainer.data.compression import check_expansion
from finetune_trainer.data.readers import BadRow, FileFaultError, Opened, Row, not_utf8

PARQUET_NAMES = (".parquet",)
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_AT_ONCE = 64
"""Rows: 64 MiB of the longest that are taken."""
_WAY_OUT = "write it as JSON Lines if that is meant"
_FAULTS = (pa.ArrowException, OSError, ValueError)
"""What pyarrow makes of damaged files; its MemoryError is one of them and none of its file's."""


def open_parquet(path: Path, wanted: Collection[str]) -> Opened:
    """Reads the footer of a file and hands out its rows one by one; a row may be of any length.

    Args:
        path: of the file.
        wanted: names of the columns that rows shall have where the file has them; no other is read.

    Raises:
        FileFaultError: no Parquet, truncated, damaged, encrypted, a column twice, or a content out of
            proportion to the file's size; later on also damaged pages, and a text that is not UTF-8.
    """
    _check_magic(path)
    try:
        file = ParquetFile(path, memory_map=True, page_checksum_verification=True)
        names = tuple(file.schema_arrow.names)
    except MemoryError:
        raise
    except _FAULTS as error:
        raise _damaged(error) from None
    for name in names:
        if names.count(name) > 1:
            raise FileFaultError(f"it has the column {name!r} more than once")
    read = [name for name in names if name in wanted]
    _check_footer(file.metadata, path.stat().st_size)
    return Opened(_rows(file, read), names, ())


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
        file.seek(max(0, path.stat().st_size - 4))
        end = file.read(4)
    if start == end == _ENCRYPTED:
        raise FileFaultError("it is encrypted; write it without encryption")
    if start != _MAGIC:
        raise FileFaultError("it is no Parquet file, whatever its name says")
    if end != _MAGIC:
        raise FileFaultError("it is a truncated Parquet file; upload the whole file")


def _check_footer(metadata: FileMetaData, size: int) -> None:
    """The footer says how much there will be; pyarrow dies of a damaged one if asked for single columns."""
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    check_expansion(size, sum(group.total_byte_size for group in groups), "Parquet", _WAY_OUT)
    check_expansion(size, metadata.num_rows, "Parquet", _WAY_OUT)


def _rows(file: ParquetFile, read: list[str]) -> Iterator[Row | BadRow]:
    line = 0
    batches = file.iter_batches(_AT_ONCE, columns=read, use_threads=False)
    while (batch := _next(batches)) is not None:
        for values in _values(batch):
            line += 1
            match values:
                case None:
                    yield BadRow(line, "holds a value out of bounds", encoding=True)
                case UnicodeDecodeError():
                    text = values.object.decode("utf-8", errors="surrogateescape")
                    wrong = values.object[values.start : values.end].decode("ascii", errors="surrogateescape")
                    raise FileFaultError(f"row {line} {not_utf8(wrong, text)[0]}; write it again in UTF-8")
                case _:
                    yield Row(line, values)


def _next(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except MemoryError:
        raise
    except _FAULTS as error:
        raise _damaged(error) from None


def _values(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError | None]:
    """The rows of a batch; the error of a row that is not UTF-8, None for a value that Python cannot hold."""
    try:
        rows = [
            {name: _json(value) for name, value in row.items()}
            for row in batch.to_pylist(maps_as_pydicts="lossy")
        ]
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for number in range(batch.num_rows):
                yield from _values(batch.slice(number, 1))
        else:
            yield error if isinstance(error, UnicodeDecodeError) else None
    else:
        yield from rows


def _json(value: Any) -> Any:
    """A value as JSON would have it; what JSON does not know becomes a number or a text."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_json(each) for each in value]
        case dict():  # every structure of a column has the same fields: what JSON leaves out is null here
            return {str(name): _json(each) for name, each in value.items() if each is not None}
        case bytes():  # older writers do not mark texts as such
            return value.decode()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case _:
            return str(value)


def _damaged(error: Exception) -> FileFaultError:
    """The library's own words may quote the file."""
    why = "the checksum of a page is wrong" if "checksum" in str(error).lower() else type(error).__name__
    return FileFaultError(f"its Parquet is damaged ({why})")
