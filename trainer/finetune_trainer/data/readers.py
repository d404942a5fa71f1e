"""PURE: rows with line numbers from the bytes of a text file.

Reads JSON Lines and CSV (comma, semicolon or tab). A row that cannot be used is a BadRow; a file that cannot
be read, such as a file in another encoding than UTF-8, is a FileFaultError. Every line of the file is a line
of exactly one Row or BadRow, is blank, or belongs to the header. Memory stays below a few rows.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from finetune_trainer.data.separated import (
    BLANK,
    TOO_LONG,
    BadRecord,
    Dialect,
    Lines,
    Record,
    delimiter_of,
    encloses,
    hinted,
    record,
    records,
    width,
)

MAX_ROW_CHARACTERS = 1024 * 1024
"""A longer row is a bad row."""
JSON_NAMES = (".jsonl", ".ndjson", ".json")
CSV_NAMES = (".csv", ".tsv")
PACKED_NAMES = (".gz", ".zst")
"""Endings of file names; a packed file has one of these after its own."""
_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_START = 64 * 1024
"""Bytes of a file that are looked at for a line end."""
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_UNDECODED = re.compile("[\udc80-\udcff]+")
_BEYOND_ASCII = re.compile("[^\x00-\x7f\udc80-\udcff]")


class FileFaultError(ValueError):
    """The file as a whole cannot be read; the text says why."""


@dataclass(frozen=True)
class Row:
    """One row as the file has the row."""

    line: int
    """1-based line where the row starts; in a Parquet file the 1-based number of the row."""
    values: dict[str, Any]
    """As JSON has the values: texts, numbers, truth values, None, lists and dicts."""
    lines: int = 1
    """Number of lines of the file that the row takes."""


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used. The row takes one line."""

    line: int
    reason: str
    """Quotes no value of the row: logs and the status of a job show the reason."""
    encoding: bool = False
    """Whether the bytes of the row are at fault, not the meaning."""


def _nothing() -> tuple[str, ...]:
    return ()


@dataclass(frozen=True)
class Opened:
    """A file on its way from bytes to rows."""

    rows: Iterator[Row | BadRow]
    """May raise FileFaultError at any row."""
    columns: tuple[str, ...]
    """Named columns of the header of a CSV file, schema of a Parquet file; empty for JSON Lines, where each
    row has its own names."""
    warnings: tuple[str, ...]
    header_is_a_line: bool = False
    """Whether the columns are a line of the file, which is a row where the header is missing."""
    dialect: str = ""
    """How a CSV file is read: encoding, delimiter, quotation marks, header."""
    hint: str = ""
    """What the header may be instead of a header, if the lines after the header do not fit."""
    after: Callable[[], tuple[str, ...]] = _nothing
    """Further warnings, which are complete when all rows have been read."""


def open_rows(chunks: Iterable[bytes], name: str) -> Opened:
    """Reads the start of a file and hands out the rest row by row.

    Args:
        chunks: the file's bytes, in any pieces.
        name: of the file; an ending in JSON_NAMES or CSV_NAMES (also packed) decides its kind, else the
            first character does.

    Raises:
        FileFaultError: not UTF-8, Parquet, a JSON array, JSON over several lines, lines that end in CR alone,
            an ambiguous header; later on the first line that is not UTF-8, and what `chunks` raises.
    """
    warnings: list[str] = []
    content = iter(chunks)
    start = next(content, b"")
    while len(start) < _START and b"\n" not in start.lstrip() and (more := next(content, None)) is not None:
        start += more
    stem = unpacked_name(name)
    _check_start(start, stem)
    if start.startswith(_BOM):
        warnings.append("a byte order mark at its start was left out")
        start = start.removeprefix(_BOM)
    lines = Lines(_utf8(_lines(_chain(start, content))))
    first = start.lstrip()[:1]
    if stem.endswith(CSV_NAMES) or not (stem.endswith(JSON_NAMES) or first in {b"{", b"["}):
        return _open_csv(lines, warnings, tabs=stem.endswith(".tsv"))
    if first == b"[":
        raise FileFaultError("it is one JSON array; write one JSON object a line (JSON Lines)")
    _check_one_line(lines)
    return Opened(_jsonl(lines), (), tuple(warnings))


def _check_start(start: bytes, stem: str) -> None:
    """Refuses what the first bytes show to be no text in UTF-8 with known line ends."""
    if start.startswith(_WIDE) or b"\0\0" in {start[0:4:2], start[1:4:2]}:
        raise FileFaultError("it is UTF-16; save it as UTF-8")
    if start.startswith(_PARQUET) and not stem.endswith(CSV_NAMES):
        raise FileFaultError("it is a Parquet file; upload it as it is, under a name that ends in .parquet")
    if b"\r" in start[:-1] and b"\n" not in start:
        raise FileFaultError(
            "its lines end in a carriage return alone (CR), as on old Macintosh computers; save it with the"
            " line ends of Unix (LF) or Windows (CRLF)"
        )


def _check_one_line(lines: Lines) -> None:
    """Refuses a JSON object over several lines, whose first line is a bracket alone."""
    first = _next_line(lines)
    if first.strip() == "{":
        raise FileFaultError(
            "it is JSON over several lines (pretty-printed); write one JSON object a line (JSON Lines), for"
            " example with jq -c"
        )


def _next_line(lines: Lines) -> str:
    """The next line that is not blank, which stays to be taken; empty at the end. Blank lines are taken."""
    while (line := lines.take()) is not None:
        if line.strip(BLANK):
            lines.give_back([line])
            return line
    return ""


def too_long(line: int) -> BadRow:
    """A row of more than MAX_ROW_CHARACTERS."""
    return BadRow(line, f"is longer than {MAX_ROW_CHARACTERS:,} characters")


def unpacked_name(name: str) -> str:
    """A file's name in lower case, without the ending of a packed file."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in PACKED_NAMES if name.endswith(ending)), name)


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


def _lines(content: Iterator[bytes]) -> Iterator[str]:
    """Lines with their ends; bytes that are not UTF-8 become lone surrogates, too long lines TOO_LONG."""
    kept: list[bytes] = []
    size = 0
    for chunk in content:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            size += end + 1 - start
            kept.append(chunk[start : end + 1] if size <= 4 * MAX_ROW_CHARACTERS else b"")
            yield _decoded(kept, size)
            kept, size, start = [], 0, end + 1
        size += len(chunk) - start
        # What is beyond the limit is counted, not kept: a line of 100 MB costs no memory.
        kept.append(chunk[start:] if size <= 4 * MAX_ROW_CHARACTERS else b"")
    if size:
        yield _decoded(kept, size)


def _decoded(pieces: list[bytes], size: int) -> str:
    if size > 4 * MAX_ROW_CHARACTERS:
        return TOO_LONG
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    return text if len(text) <= MAX_ROW_CHARACTERS else TOO_LONG


def _utf8(lines: Iterator[str]) -> Iterator[str]:
    """The lines as they are.

    Raises:
        FileFaultError: a line is not UTF-8, and so the file is not.
    """
    for number, line in enumerate(lines, start=1):
        if line != TOO_LONG and (wrong := _UNDECODED.search(line)):
            why, windows = not_utf8(wrong[0], line)
            way_out = (
                "save it as UTF-8 (in Excel: CSV UTF-8), or convert it with iconv -f WINDOWS-1252 -t UTF-8"
                if windows
                else "save it as UTF-8"
            )
            raise FileFaultError(f"line {number} {why}; {way_out}")
        yield line


def not_utf8(wrong: str, text: str) -> tuple[str, bool]:
    """Says that a text is not UTF-8, and whether its encoding is probably Windows-1252.

    Args:
        wrong: the first bytes that are not UTF-8, as lone surrogates.
        text: the whole text, decoded with surrogateescape.
    """
    data = wrong.encode("utf-8", errors="surrogateescape")
    said = f"is not UTF-8 (byte {data[0]:#04x})"
    if _BEYOND_ASCII.search(text):
        return f"{said}, while other characters beyond ASCII are", False
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return said, False
    return f"{said}, but probably Windows-1252", True


def _jsonl(lines: Lines) -> Iterator[Row | BadRow]:
    while (line := lines.take()) is not None:
        if not line.strip():
            continue
        number = lines.number
        if bad := _bad_text(line, number):
            yield bad
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"is not JSON ({_json_fault(error)})")
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            yield BadRow(number, f"is a JSON {type(values).__name__}, not an object")


def _json_fault(error: ValueError | RecursionError) -> str:
    """What is wrong with a JSON text, without a word of the text."""
    match error:
        case json.JSONDecodeError():
            # After a colon the parser may quote the text.
            return f"{error.msg.partition(':')[0]}: character {error.pos + 1}"
        case RecursionError():
            return "it nests too deeply"
        case _:
            return "a number has too many digits"


@dataclass
class _Table:
    """A CSV file whose header has been read, and what its rows turn out to be like."""

    dialect: Dialect
    cells: tuple[str, ...]
    """Of the header; '' for a column without a name."""
    long_rows: int = 0
    """Rows that take several lines."""
    longest: tuple[int, int] = (0, 0)
    """Lines of the longest row, and the line where the row starts."""
    nameless_values: int = 0
    """Rows with a value in a column without a name."""
    letters: int = 0
    """Cells that begin and end with quotation marks, which are letters in this dialect."""
    named: tuple[int, ...] = field(init=False)
    """Positions of the columns that have a name."""

    def __post_init__(self) -> None:
        """Finds the columns that have a name."""
        self.named = tuple(number for number, name in enumerate(self.cells) if name)

    def rows(self, lines: Lines) -> Iterator[Row | BadRow]:
        """The rows after the header."""
        for found in records(lines, self.dialect, len(self.cells), MAX_ROW_CHARACTERS):
            if isinstance(found, BadRecord):
                yield BadRow(found.line, found.reason)
            elif bad := _bad_text("".join(found.cells), found.line):
                yield bad
            else:
                self._count(found)
                values = {self.cells[number]: found.cells[number] for number in self.named}
                yield Row(found.line, values, found.lines)

    def _count(self, found: Record) -> None:
        if found.lines > 1:
            self.long_rows += 1
            self.longest = max(self.longest, (found.lines, -found.line))
        if len(self.named) < len(self.cells):
            self.nameless_values += any(
                cell.strip() for name, cell in zip(self.cells, found.cells, strict=True) if not name
            )
        if not self.dialect.quoted:
            self.letters += sum(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in found.cells)

    def notes(self) -> tuple[str, ...]:
        """What the rows have shown."""
        notes = []
        if self.long_rows:
            lines, line = self.longest[0], -self.longest[1]
            notes.append(
                f"{self.long_rows:,} of its rows run over several lines, because quotation marks enclose line"
                f" breaks; the longest, line {line}, over {lines:,} lines"
            )
        if self.nameless_values:
            notes.append(f"{self.nameless_values:,} of its rows have values in columns without a name")
        if self.letters:
            notes.append(
                f"{self.letters:,} of its cells begin and end with quotation marks, which are letters of the"
                " cells in a .tsv file whose header has none; if the marks enclose the cells, enclose the"
                " names of the header too, or name the file .csv"
            )
        return tuple(notes)


def _open_csv(lines: Lines, warnings: list[str], *, tabs: bool) -> Opened:
    known = "\t,;" if tabs else ",;\t"
    first = _first(lines, known)
    hint = hinted(first)
    if hint is not None:
        first = _first(lines, known)
    if not first:
        return Opened(iter(()), (), tuple(warnings))
    if first == TOO_LONG or "\0" in first:
        raise FileFaultError(f"its header (line {lines.number}) is too long or has a NUL character")
    delimiter = hint or delimiter_of(first, known)
    # Tools that write tab-separated values mostly enclose nothing: a quotation mark is a letter of a text.
    dialect = Dialect(delimiter, not (tabs and delimiter == "\t") or encloses(first, delimiter))
    line = lines.number
    header = record(first, lines, dialect, None, MAX_ROW_CHARACTERS)
    if isinstance(header, BadRecord):
        raise FileFaultError(f"its header is not CSV: line {line} {header.reason}")
    table = _Table(dialect, tuple(cell.strip() for cell in header.cells))
    columns = tuple(table.cells[number] for number in table.named)
    _check_names(table.cells)
    said = _said(dialect, line, columns)
    if delimiter != known[0] or line > 1 or (tabs and dialect.quoted):
        warnings.append(f"it is read as {said}")
    if len(columns) < len(table.cells):
        warnings.append(f"{len(table.cells) - len(columns):,} of its columns have no name and are not read")
    rows = table.rows(lines)
    title = _title(lines, line, len(columns), dialect, known)
    return Opened(rows, columns, tuple(warnings), True, said, title, table.notes)


def _first(lines: Lines, known: str) -> str:
    """The next line that has more than delimiters; empty at the end."""
    while (line := lines.take()) is not None:
        if line.strip(f'{known} "\r\n'):
            return line
    return ""


def _check_names(cells: tuple[str, ...]) -> None:
    twice = [name for name, count in Counter(cells).items() if name and count > 1]
    if twice:
        # By their numbers: without a header the names are values of the first row.
        numbers = [number for number, name in enumerate(cells, start=1) if name == twice[0]]
        raise FileFaultError(
            f"its header has a column more than once: columns {', '.join(map(str, numbers[:5]))}"
        )


def _said(dialect: Dialect, line: int, columns: tuple[str, ...]) -> str:
    """A dialect for people."""
    delimiter = _DELIMITERS.get(dialect.delimiter, repr(dialect.delimiter))
    marks = "enclose cells" if dialect.quoted else "are letters of the cells"
    named = f"{len(columns):,} named column{'s' * (len(columns) != 1)}"
    return (
        f"UTF-8 text with {delimiter} between the cells; quotation marks {marks}; the header is line {line},"
        f" with {named}"
    )


def _title(lines: Lines, line: int, columns: int, dialect: Dialect, known: str) -> str:
    """Asks whether a header is a title, if the line that follows has more cells; else empty."""
    second = _next_line(lines)
    number = lines.number + 1
    delimiter = dialect.delimiter if dialect.delimiter in second else delimiter_of(second, known)
    cells = width(second, delimiter)
    if cells <= columns:
        return ""
    return (
        f"line {line} has {columns:,} cell{'s' * (columns != 1)}, line {number} has {cells:,}: is line {line}"
        " a title? Delete it"
    )


def _bad_text(text: str, number: int) -> BadRow | None:
    if text == TOO_LONG:
        return too_long(number)
    if "\0" in text:
        return BadRow(number, "holds a NUL character", encoding=True)
    return None
