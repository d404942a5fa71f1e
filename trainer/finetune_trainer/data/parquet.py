"""IO: reads the requested columns of a Parquet file in small batches of rows."""

from collections.abc import Collection, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow.parquet import FileMetaData, ParquetFile

from finetune_trainer.data.compression import check_expansion
from finetune_trainer.data.file_rows import BadRow, FileFaultError, OpenedFile, Row
from finetune_trainer.data.readers import describe_encoding_fault

PARQUET_NAMES = (".parquet",)
_MAGIC, _ENCRYPTED = b"PAR1", b"PARE"
_BATCH_ROWS = 64
"""Rows that are converted together: 64 MiB for rows of MAX_ROW_CHARACTERS."""
_ADVICE = "write it as JSON Lines if that is meant"
_FAULTS = (pa.ArrowException, OSError, ValueError)
"""Exceptions of pyarrow for damaged files. pa.ArrowMemoryError is a subclass, but is no fault of the file."""


def open_parquet(path: Path, wanted: Collection[str]) -> OpenedFile:
    """Opens a Parquet file; the rows are read on iteration and can have any length.

    Args:
        path: path of the file.
        wanted: names of the columns to read; columns that the file lacks are ignored.

    Raises:
        FileFaultError: the file is not Parquet, truncated, damaged or encrypted, has a column twice, or
            expands too much. The iteration over the rows raises FileFaultError for damaged pages and for text
            that is not UTF-8.
    """
    _check_magic(path)
    try:
        file = ParquetFile(path, memory_map=True, page_checksum_verification=True)
        names = tuple(file.schema_arrow.names)
    except MemoryError:
        raise
    except _FAULTS as error:
        raise _file_fault(error) from None
    for name in names:
        if names.count(name) > 1:
            raise FileFaultError(f"it has the column {name!r} more than once")
    read = [name for name in names if name in wanted]
    _check_footer(file.metadata, path.stat().st_size)
    return OpenedFile(_read_rows(file, read), names, (), total_rows=file.metadata.num_rows)


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
    """Checks the sizes in the footer, also of columns that are not read.

    pyarrow can crash if a damaged footer is asked for the size of a single column.
    """
    groups = (metadata.row_group(number) for number in range(metadata.num_row_groups))
    check_expansion(size, sum(group.total_byte_size for group in groups), "Parquet", _ADVICE)
    check_expansion(size, metadata.num_rows, "Parquet", _ADVICE)


def _read_rows(file: ParquetFile, read: list[str]) -> Iterator[Row | BadRow]:
    line = 0
    batches = file.iter_batches(_BATCH_ROWS, columns=read, use_threads=False)
    while (batch := _read_batch(batches)) is not None:
        for values in _convert_batch(batch):
            line += 1
            match values:
                case None:
                    yield BadRow(line, "holds a value out of bounds", encoding=True)
                case UnicodeDecodeError():
                    text = values.object.decode("utf-8", errors="surrogateescape")
                    wrong = values.object[values.start : values.end].decode("ascii", errors="surrogateescape")
                    raise FileFaultError(
                        f"row {line} {describe_encoding_fault(wrong, text)[0]}; write it again in UTF-8"
                    )
                case _:
                    yield Row(line, values)


def _read_batch(batches: Iterator[pa.RecordBatch]) -> pa.RecordBatch | None:
    try:
        return next(batches, None)
    except MemoryError:
        raise
    except _FAULTS as error:
        raise _file_fault(error) from None


def _convert_batch(batch: pa.RecordBatch) -> Iterator[dict[str, Any] | UnicodeDecodeError | None]:
    """Yields the rows of a batch.

    In place of a row that is not UTF-8, the function yields the error, and None for a row with a value that
    Python cannot represent.
    """
    try:
        rows = [
            {name: _convert_value(value) for name, value in row.items()}
            for row in batch.to_pylist(maps_as_pydicts="lossy")
        ]
    except (ValueError, OverflowError) as error:
        if batch.num_rows > 1:
            for number in range(batch.num_rows):
                yield from _convert_batch(batch.slice(number, 1))
        else:
            yield error if isinstance(error, UnicodeDecodeError) else None
    else:
        yield from rows


def _convert_value(value: Any) -> Any:
    """Converts a value to a JSON value; other types become numbers or strings."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case list():
            return [_convert_value(item) for item in value]
        case dict():  # Parquet writes null for an absent field of a struct
            return {str(name): _convert_value(item) for name, item in value.items() if item is not None}
        case bytes():  # older writers do not annotate strings
            return value.decode()
        case Decimal():
            return int(value) if value == value.to_integral_value() else float(value)
        case _:
            return str(value)


def _file_fault(error: Exception) -> FileFaultError:
    """Returns the fault of a damaged file, without the library's message, which can contain file data."""
    why = "the checksum of a page is wrong" if "checksum" in str(error).lower() else type(error).__name__
    return FileFaultError(f"its Parquet is damaged ({why})")
