"""PURE: records of separated values (CSV, TSV), strictly by RFC 4180.

A record that is not well-formed takes its first line only: reading resumes at the next line. Every line of
the input is therefore a line of exactly one record or bad record, or is blank.
"""

import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

_QUOTED = re.compile(r'"((?:[^"]++|"")*+)"')
_HINT = re.compile(r'"?sep=([^\w"\r\n])"?\1*')
BLANK = " \r\n"
"""Characters of a blank line."""
_CARRIAGE_RETURN = "has a carriage return in a cell that is not enclosed in quotation marks"
TOO_LONG = "\ud800\n"
"""Stands for a line that was too long to keep; no decoded text contains half a character."""


@dataclass(frozen=True)
class Dialect:
    """How the cells of a line are told apart."""

    delimiter: str
    """One character."""
    quoted: bool
    """Whether quotation marks enclose cells; otherwise quotation marks are letters of the cells."""


@dataclass(frozen=True)
class Record:
    """The cells of one row."""

    line: int
    """1-based line where the record starts."""
    lines: int
    """Number of lines that the record takes: more than 1 where a quoted cell has line breaks."""
    cells: list[str]


@dataclass(frozen=True)
class BadRecord:
    """A line that starts no well-formed record."""

    line: int
    reason: str
    """Quotes no cell."""


class Lines:
    """Numbered lines that can be given back and taken again."""

    def __init__(self, lines: Iterator[str]) -> None:
        """Takes over the lines, each with its line end."""
        self._lines = lines
        self._held: deque[str] = deque()
        self.number = 0
        """1-based number of the line that was taken last."""

    def take(self) -> str | None:
        """The next line, None at the end."""
        line = self._held.popleft() if self._held else next(self._lines, None)
        self.number += line is not None
        return line

    def give_back(self, lines: list[str]) -> None:
        """Puts back the lines that were taken last, in the order in which they were taken."""
        self._held.extendleft(reversed(lines))
        self.number -= len(lines)


def records(lines: Lines, dialect: Dialect, columns: int, most: int) -> Iterator[Record | BadRecord]:
    """The records that follow, without blank lines.

    Args:
        lines: from the first line after the header.
        dialect: of the file.
        columns: number of cells of each record.
        most: characters of a record, its line breaks and quotation marks included.
    """
    while (first := lines.take()) is not None:
        if first.strip(BLANK):
            yield record(first, lines, dialect, columns, most)


def record(first: str, lines: Lines, dialect: Dialect, columns: int | None, most: int) -> Record | BadRecord:
    """The record that starts with the line that was taken last.

    Args:
        first: the line.
        lines: the lines that follow; a record with line breaks takes some.
        dialect: of the file.
        columns: number of cells that the record must have; None for any number.
        most: characters of a record.
    """
    number = lines.number
    if first == TOO_LONG:
        return BadRecord(number, f"is longer than {most:,} characters")
    more: list[str] = []
    cells = _cells(first, dialect)
    if cells is None:
        more, fault = _rest(first, lines, most)
        cells = fault or _cells("".join([first, *more]), dialect) or ""
    if isinstance(cells, list) and columns is not None and len(cells) != columns:
        over = f" and runs over {len(more) + 1:,} lines" if more else ""
        cells = f"has {len(cells):,} cell{'s' * (len(cells) != 1)}{over}, the header has {columns:,}"
    if isinstance(cells, list):
        return Record(number, len(more) + 1, cells)
    lines.give_back(more)
    return BadRecord(number, cells)


def _rest(first: str, lines: Lines, most: int) -> tuple[list[str], str]:
    """The lines that follow a line with an open quotation mark, up to the line that closes the mark.

    A line with an even number of marks leaves a quoted cell as open or closed as the cell was before, or is
    not well-formed. The first line with an odd number therefore ends the record, and each line is taken for
    at most one record before its own: reading takes linear time.

    Returns:
        The lines, and what is wrong if no line closes the mark within `most` characters.
    """
    taken: list[str] = []
    size = len(first)
    while size <= most:
        line = lines.take()
        if line is None:
            return taken, "opens a quotation mark that is not closed"
        taken.append(line)
        size += len(line) if line != TOO_LONG else most + 1
        if line.count('"') % 2 and size <= most:
            return taken, ""
    return taken, f"is longer than {most:,} characters, because a quotation mark is not closed before"


def _cells(text: str, dialect: Dialect) -> list[str] | str | None:
    """The cells of a record, or what is wrong with the record; None where a quotation mark is open."""
    text = text.removesuffix("\n").removesuffix("\r")
    if not dialect.quoted or '"' not in text:
        return text.split(dialect.delimiter) if "\r" not in text else _CARRIAGE_RETURN
    cells: list[str] = []
    place = 0
    while True:
        if text.startswith('"', place):
            found = _QUOTED.match(text, place)
            if found is None:
                return None
            cells.append(found[1].replace('""', '"'))
            place = found.end()
            if place < len(text) and text[place] != dialect.delimiter:
                return "has text between the closing quotation mark of a cell and the delimiter"
        else:
            end = text.find(dialect.delimiter, place)
            cell = text[place : end if end >= 0 else len(text)]
            if '"' in cell:
                return "has a quotation mark in a cell that is not enclosed in quotation marks"
            if "\r" in cell:
                return _CARRIAGE_RETURN
            cells.append(cell)
            place += len(cell)
        if place == len(text):
            return cells
        place += 1


def hinted(line: str) -> str | None:
    """The delimiter that a line `sep=;` names, which Excel writes and reads above the header."""
    found = _HINT.fullmatch(line.strip(BLANK))
    return found[1] if found else None


def delimiter_of(line: str, known: str) -> str:
    """The delimiter that a line has most often outside of quotation marks; the first of `known` if none."""
    return max(known, key=_QUOTED.sub("", line).count)


def width(line: str, delimiter: str) -> int:
    """Number of cells of a line, without the empty cells at its end."""
    return len(_QUOTED.sub("cell", line).strip(BLANK).rstrip(delimiter).split(delimiter))


def encloses(line: str, delimiter: str) -> bool:
    """Whether all cells of a line that are not empty stand in quotation marks."""
    cells = [cell for cell in line.strip(BLANK).split(delimiter) if cell]
    return bool(cells) and all(_QUOTED.fullmatch(cell) for cell in cells)
