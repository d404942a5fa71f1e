"""PURE: the rows of an opened file, and the faults of files and rows."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from finetune_trainer.data.csv_records import (
    TOO_LONG,
)

MAX_ROW_CHARACTERS = 1024 * 1024
"""Maximum length of a usable row."""


class FileFaultError(ValueError):
    """The whole file cannot be read. The message contains the reason."""


@dataclass(frozen=True)
class Row:
    """A row of a file."""

    line: int
    """1-based line where the row starts; in a Parquet file the 1-based number of the row."""
    values: dict[str, Any]
    """JSON values by column name."""
    lines: int = 1
    """Number of lines of the row."""


@dataclass(frozen=True)
class BadRow:
    """A row of one line that cannot be used."""

    line: int
    reason: str
    """Reason without row data, because logs and the job's status show the reason."""
    encoding: bool = False
    """Whether the bytes of the row are not valid text."""


def _no_warnings() -> tuple[str, ...]:
    return ()


def _start_of_file() -> int:
    return 0


@dataclass(frozen=True)
class OpenedFile:
    """An opened file whose rows are read on iteration."""

    rows: Iterator[Row | BadRow]
    """Raises FileFaultError for a fault of the file."""
    columns: tuple[str, ...]
    """Named columns of a CSV header or of a Parquet schema; empty for JSON Lines, where each row has keys."""
    warnings: tuple[str, ...]
    header_is_a_line: bool = False
    """Whether the first line contains the columns. If the file has no header, the columns are row data."""
    dialect: str = ""
    """Description of the CSV dialect: encoding, delimiter, quotation marks, header."""
    hint: str = ""
    """Suggestion for a header that does not fit the following lines."""
    late_warnings: Callable[[], tuple[str, ...]] = _no_warnings
    """Returns the warnings about rows; call after the last row was read."""
    position: Callable[[], int] = _start_of_file
    """Returns the number of bytes of a text file that were read so far."""
    total_rows: int = 0
    """Number of rows of a Parquet file."""


def too_long(line: int) -> BadRow:
    """Returns the bad row for a line of more than MAX_ROW_CHARACTERS."""
    return BadRow(line, f"is longer than {MAX_ROW_CHARACTERS:,} characters")


def check_text(text: str, number: int) -> BadRow | None:
    """Returns a bad row if the text of a row is too long or contains NUL, otherwise None."""
    if text == TOO_LONG:
        return too_long(number)
    if "\0" in text:
        return BadRow(number, "holds a NUL character", encoding=True)
    return None
