"""PURE: bytes of a text file -> rows with line numbers. An unreadable row is a BadRow, never an exception.

Reads JSON Lines and CSV (comma, semicolon or tab). Memory stays below a few rows.
"""

import csv
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Self

MAX_ROW_CHARACTERS = 1024 * 1024
"""A longer row is a bad row."""
JSON_NAMES = (".jsonl", ".ndjson", ".json")
CSV_NAMES = (".csv", ".tsv")
PACKED_NAMES = (".gz", ".zst")
"""Endings of file names; a packed file has one of these after its own."""
_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_UNDECODED = re.compile("[\udc80-\udcff]")
_SURROGATE = re.compile("[\ud800-\udfff]")
_TOO_LONG = "\ud800"
"""Stands for a line that was too long to keep; no decoded text holds it."""


class FileFaultError(ValueError):
    """The file as a whole cannot be read; the text says why."""


@dataclass(frozen=True)
class Row:
    """One row as it is written."""

    line: int
    """1-based line where it starts; in a Parquet file its 1-based number."""
    values: dict[str, Any]
    """As JSON has them: texts, numbers, truth values, None, lists and dicts."""


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used."""

    line: int
    reason: str
    """Quotes no value of the row: logs and the status of a job show the reason."""
    encoding: bool = False
    """Whether its bytes are at fault, not its meaning."""


@dataclass(frozen=True)
class Opened:
    """A file on its way from bytes to rows."""

    rows: Iterator[Row | BadRow]
    columns: tuple[str, ...]
    """Header of a CSV file, schema of a Parquet file; empty for JSONL, whose rows each carry their own."""
    warnings: tuple[str, ...]
    header_is_a_line: bool = False
    """Whether the columns are the first line of the file, which is a row where the header is missing."""


def open_rows(chunks: Iterable[bytes], name: str) -> Opened:
    """Reads the start of a file and hands out the rest row by row.

    Args:
        chunks: the file's bytes, in any pieces.
        name: of the file; an ending in JSON_NAMES or CSV_NAMES (also packed) decides its kind, else the
            first character does.

    Raises:
        FileFaultError: UTF-16, Parquet, a JSON array, an ambiguous header; later on what `chunks` raises.
    """
    warnings: list[str] = []
    content = iter(chunks)
    start = next(content, b"")
    while len(start) < len(_PARQUET) and (more := next(content, None)) is not None:
        start += more
    if start.startswith(_WIDE):
        raise FileFaultError("it is UTF-16; save it as UTF-8")
    stem = unpacked_name(name)
    if start.startswith(_PARQUET) and not stem.endswith(CSV_NAMES):
        raise FileFaultError("it is a Parquet file; upload it as it is, under a name that ends in .parquet")
    if start.startswith(_BOM):
        warnings.append("a byte order mark at its start was left out")
        start = start.removeprefix(_BOM)
    lines = _lines(_chain(start, content))
    first = start.lstrip()[:1]
    if stem.endswith(CSV_NAMES) or not (stem.endswith(JSON_NAMES) or first in {b"{", b"["}):
        return _open_csv(lines, warnings, tabs=stem.endswith(".tsv"))
    if first == b"[":
        raise FileFaultError("it is one JSON array; write one JSON object a line (JSON Lines)")
    return Opened(_jsonl(lines), (), tuple(warnings))


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
    """Lines with their ends; bytes that are not UTF-8 become lone surrogates, too long lines a mark."""
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
        return _TOO_LONG + "\n"
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    return text if len(text) <= MAX_ROW_CHARACTERS else _TOO_LONG + "\n"


def _jsonl(lines: Iterator[str]) -> Iterator[Row | BadRow]:
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
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


def _open_csv(lines: Iterator[str], warnings: list[str], *, tabs: bool) -> Opened:
    header = next(lines, "")
    if "\0" in header or _SURROGATE.search(header):
        raise FileFaultError("its header is not UTF-8 text")
    known = "\t,;" if tabs else ",;\t"
    delimiter = max(known, key=header.count)
    if delimiter != known[0]:
        warnings.append(f"its columns are separated by {_DELIMITERS[delimiter]}")
    try:
        columns = tuple(cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), []))
    except csv.Error as error:
        raise FileFaultError(f"its header is not CSV ({error})") from None
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        # By their numbers: without a header the names are values of the first row.
        numbers = [number for number, name in enumerate(columns, start=1) if name == twice[0]]
        raise FileFaultError(
            f"its header has a column more than once: columns {', '.join(map(str, numbers[:5]))}"
        )
    return Opened(_csv(lines, columns, delimiter), columns, tuple(warnings), header_is_a_line=True)


@dataclass
class _RowLines:
    """Lines of which a row takes only so many, although its quotes may join them all."""

    lines: Iterator[str]
    left: int = 0
    """Characters; no further line is given for a row that has used them up."""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        if self.left <= 0:
            raise csv.Error
        line = next(self.lines)
        self.left -= len(line)
        return line


def _csv(lines: Iterator[str], columns: tuple[str, ...], delimiter: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    limited = _RowLines(lines)
    reader = csv.reader(limited, delimiter=delimiter)
    while True:
        number = reader.line_num + 2  # the header is line 1, and line_num counts what was read
        limited.left = 2 * MAX_ROW_CHARACTERS  # a quote in a cell is written twice
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(number, f"is not CSV ({error})") if limited.left > 0 else too_long(number)
            continue
        if not cells:
            continue
        if bad := _bad_text("".join(cells), number):
            yield bad
        elif len(cells) != len(columns):
            yield BadRow(number, f"has {len(cells)} cells, the header {len(columns)}")
        else:
            yield Row(number, dict(zip(columns, cells, strict=True)))


def _bad_text(text: str, number: int) -> BadRow | None:
    if _TOO_LONG in text:
        return too_long(number)
    if wrong := _UNDECODED.search(text):
        return BadRow(number, f"is not UTF-8 (byte {ord(wrong[0]) - 0xDC00:#x})", encoding=True)
    if "\0" in text:
        return BadRow(number, "holds a NUL character", encoding=True)
    return None
