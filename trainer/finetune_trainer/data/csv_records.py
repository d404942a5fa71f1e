"""PURE: parses records of CSV and TSV files strictly by RFC 4180.

After a malformed record, parsing continues with the second line of the record. Therefore every line belongs
to exactly one record or bad record, or is blank.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_SEPARATOR_HINT = re.compile(r'"?sep=([^\w"\r\n])"?\1*')
BLANK = " \r\n"
"""Characters of a blank line."""
_CARRIAGE_RETURN = "has a carriage return in a cell that is not enclosed in quotation marks"
TOO_LONG = "\ud800\n"
"""Replaces a line that is too long. Decoded text cannot contain this lone surrogate."""


@dataclass(frozen=True)
class Dialect:
    """How the cells of a line are separated."""

    delimiter: str
    """One character."""
    quoted: bool
    """Whether quotation marks enclose cells; otherwise quotation marks are part of the cells."""


@dataclass(frozen=True)
class Record:
    """The cells of one row."""

    line: int
    """1-based line where the record starts."""
    lines: int
    """Number of lines of the record: more than 1 if a quoted cell contains line breaks."""
    cells: list[str]


@dataclass(frozen=True)
class BadRecord:
    """The first line of a malformed record."""

    line: int
    reason: str
    """Reason without row data."""


class Lines:
    """A stream of numbered lines with push-back."""

    def __init__(self, lines: Iterator[str]) -> None:
        """Starts at the first line.

        Args:
            lines: the lines, with line ends.
        """
        self._lines = lines
        self._held: deque[str] = deque()
        self.number = 0
        """1-based number of the line that `next_line` returned last."""

    def next_line(self) -> str | None:
        """Returns the next line; None at the end."""
        line = self._held.popleft() if self._held else next(self._lines, None)
        self.number += line is not None
        return line

    def push_back(self, lines: list[str]) -> None:
        """Pushes back the last lines, so that `next_line` returns the lines again in the same order."""
        self._held.extendleft(reversed(lines))
        self.number -= len(lines)


def read_records(
    lines: Lines, dialect: Dialect, columns: int, max_characters: int
) -> Iterator[Record | BadRecord]:
    """Yields the records and bad records of the remaining lines, without blank lines.

    Args:
        lines: the lines after the header.
        dialect: dialect of the file.
        columns: required number of cells of a record.
        max_characters: maximum length of a record, line breaks and quotation marks included.
    """
    while (first := lines.next_line()) is not None:
        if first.strip(BLANK):
            yield read_record(first, lines, dialect, columns, max_characters)


def read_record(
    first: str, lines: Lines, dialect: Dialect, columns: int | None, max_characters: int
) -> Record | BadRecord:
    """Reads the record that starts with a line.

    Args:
        first: first line of the record, which `next_line` returned last.
        lines: the following lines; a record of several lines consumes lines.
        dialect: dialect of the file.
        columns: required number of cells; None for any number.
        max_characters: maximum length of a record.
    """
    number = lines.number
    if first == TOO_LONG:
        return BadRecord(number, f"is longer than {max_characters:,} characters")
    more: list[str] = []
    cells = _parse_cells(first, dialect)
    if cells is None:
        more, fault = _read_continuation(first, lines, max_characters)
        cells = fault or _parse_cells("".join([first, *more]), dialect) or ""
    if isinstance(cells, list) and columns is not None and len(cells) != columns:
        over = f" and runs over {len(more) + 1:,} lines" if more else ""
        cells = f"has {len(cells):,} cell{'s' * (len(cells) != 1)}{over}, the header has {columns:,}"
    if isinstance(cells, list):
        return Record(number, len(more) + 1, cells)
    lines.push_back(more)
    return BadRecord(number, cells)


def _read_continuation(first: str, lines: Lines, max_characters: int) -> tuple[list[str], str]:
    """Reads the lines after an open quotation mark, up to the line that closes the quotation mark.

    In a well-formed record, only a line with an odd number of quotation marks closes a quoted cell. The
    record ends with the first such line. Each line is read for at most one earlier record, so parsing takes
    linear time.

    Returns:
        The lines, and the fault if no line closes the quotation mark within `max_characters`.
    """
    continuation: list[str] = []
    size = len(first)
    while size <= max_characters:
        line = lines.next_line()
        if line is None:
            return continuation, "opens a quotation mark that is not closed"
        continuation.append(line)
        size += len(line) if line != TOO_LONG else max_characters + 1
        if line.count('"') % 2 and size <= max_characters:
            return continuation, ""
    return (
        continuation,
        f"is longer than {max_characters:,} characters, because a quotation mark is not closed before",
    )


def _parse_cells(text: str, dialect: Dialect) -> list[str] | str | None:
    """Returns the cells of a record, the fault of a malformed record, or None if a quotation mark is open."""
    text = text.removesuffix("\n").removesuffix("\r")
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.delimiter) if "\r" not in text else _CARRIAGE_RETURN
    cells: list[str] = []
    position = 0
    while True:
        if text.startswith('"', position):
            found = _QUOTED.match(text, position)
            if found is None:
                return None
            cells.append(found[1].replace('""', '"'))
            position = found.end()
            if position < len(text) and text[position] != dialect.delimiter:
                return "has text between the closing quotation mark of a cell and the delimiter"
        else:
            end = text.find(dialect.delimiter, position)
            cell = text[position : end if end >= 0 else len(text)]
            if '"' in cell:
                return "has a quotation mark in a cell that is not enclosed in quotation marks"
            if "\r" in cell:
                return _CARRIAGE_RETURN
            cells.append(cell)
            position += len(cell)
        if position == len(text):
            return cells
        position += 1


def parse_separator_hint(line: str) -> str | None:
    """Returns the delimiter of a line `sep=;`, which Excel writes above the header; None for other lines."""
    found = _SEPARATOR_HINT.fullmatch(line.strip(BLANK))
    return found[1] if found else None


def detect_delimiter(line: str, known: str) -> str:
    """Returns the most frequent delimiter outside of quotation marks, or the first of `known`."""
    return max(known, key=_QUOTED.sub("", line).count)


def count_cells(line: str, delimiter: str) -> int:
    """Returns the number of cells of a line, without empty cells at the end."""
    return len(_QUOTED.sub("cell", line).strip(BLANK).rstrip(delimiter).split(delimiter))


def all_cells_quoted(line: str, delimiter: str) -> bool:
    """Returns whether quotation marks enclose all cells of a line that are not empty."""
    cells = [cell for cell in line.strip(BLANK).split(delimiter) if cell]
    return bool(cells) and all(_QUOTED.fullmatch(cell) for cell in cells)
