"""PURE: bytes of a data file -> rows with line numbers. An unreadable row is a BadRow, never an exception.

Reads JSON Lines and CSV (comma, semicolon or tab), plain or gzip. Memory stays below a few rows.
"""

import csv
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

MAX_ROW_CHARACTERS = 1024 * 1024
"""A longer row is a bad row."""
MAX_EXPANSION = 200
"""Bytes that one byte of gzip may become; text reaches about 20, a bomb 1,000."""
_FREE_EXPANSION_BYTES = 4 * 1024 * 1024
_PIECE = 1024 * 1024
_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_WIDE = (b"\xff\xfe", b"\xfe\xff")
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
    """1-based line where it starts."""
    values: dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """One row that cannot be used."""

    line: int
    reason: str
    encoding: bool = False
    """Whether its bytes are at fault, not its meaning."""


@dataclass(frozen=True)
class Opened:
    """A file on its way from bytes to rows."""

    rows: Iterator[Row | BadRow]
    kind: str
    """JSONL or CSV."""
    columns: tuple[str, ...]
    """Header of a CSV file; empty for JSONL, whose rows each carry their own."""
    warnings: tuple[str, ...]


def open_rows(chunks: Iterable[bytes], name: str) -> Opened:
    """Reads the start of a file and hands out the rest row by row.

    Args:
        chunks: the file's bytes, in any pieces.
        name: of the file; `.csv`, `.tsv`, `.jsonl`, `.ndjson`, `.json` (also with `.gz`) decide its kind,
            else the first character does.

    Raises:
        FileFaultError: UTF-16, a JSON array, an ambiguous header; later on also broken or endless gzip.
    """
    warnings: list[str] = []
    content = _plain(iter(chunks))
    start = next(content, b"")
    while len(start) < len(_BOM) and (more := next(content, None)) is not None:
        start += more
    if start.startswith(_WIDE):
        raise FileFaultError("it is UTF-16; save it as UTF-8")
    if start.startswith(_BOM):
        warnings.append("a byte order mark at its start was left out")
        start = start.removeprefix(_BOM)
    lines = _lines(_chain(start, content))
    stem = name.lower().removesuffix(".gz")
    first = start.lstrip()[:1]
    named_json = stem.endswith((".jsonl", ".ndjson", ".json"))
    if stem.endswith((".csv", ".tsv")) or not (named_json or first in {b"{", b"["}):
        return _open_csv(lines, warnings)
    if first == b"[":
        raise FileFaultError("it is one JSON array; write one JSON object a line (JSON Lines)")
    return Opened(_jsonl(lines), "JSONL", (), tuple(warnings))


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


def _plain(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The content; gzip (any number of members) is taken off."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= len(_GZIP):
            break
    if head.startswith(_GZIP):
        yield from _gunzipped(_chain(head, chunks))
    else:
        yield from _chain(head, chunks)


def _gunzipped(chunks: Iterator[bytes]) -> Iterator[bytes]:
    member = zlib.decompressobj(wbits=31)
    taken = given = 0
    for chunk in chunks:
        taken += len(chunk)
        rest = chunk
        while rest:
            if member.eof:
                if not rest.strip(b"\0"):
                    break  # padding after the last member is allowed
                member = zlib.decompressobj(wbits=31)
            try:
                piece = member.decompress(rest, _PIECE)
            except zlib.error as error:
                raise FileFaultError(f"its gzip is damaged ({error})") from None
            given += len(piece)
            if given > _FREE_EXPANSION_BYTES and given > MAX_EXPANSION * taken:
                raise FileFaultError(f"its gzip unpacks to more than {MAX_EXPANSION} times its size")
            rest = member.unused_data if member.eof else member.unconsumed_tail
            if piece:
                yield piece
    while not member.eof and (piece := member.decompress(member.unconsumed_tail, _PIECE)):
        yield piece
    if not member.eof:
        raise FileFaultError("its gzip is truncated; upload the whole file")


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
            yield BadRow(number, f"is not JSON ({str(error)[:80]})")
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            yield BadRow(number, f"is a JSON {type(values).__name__}, not an object")


def _open_csv(lines: Iterator[str], warnings: list[str]) -> Opened:
    header = next(lines, "")
    if "\0" in header or _SURROGATE.search(header):
        raise FileFaultError("its header is not UTF-8 text")
    delimiter = max(",;\t", key=header.count)
    if delimiter != ",":
        warnings.append(f"its columns are separated by {'tabs' if delimiter == chr(9) else 'semicolons'}")
    columns = tuple(cell.strip() for cell in next(csv.reader([header], delimiter=delimiter), []))
    twice = [name for name, count in Counter(columns).items() if count > 1]
    if twice:
        raise FileFaultError(f"its header has the column {twice[0]!r} more than once")
    return Opened(_csv(lines, columns, delimiter), "CSV", columns, tuple(warnings))


def _csv(lines: Iterator[str], columns: tuple[str, ...], delimiter: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(MAX_ROW_CHARACTERS)
    reader = csv.reader(lines, delimiter=delimiter)
    while True:
        number = reader.line_num + 2  # the header is line 1, and line_num counts what was read
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(number, f"is not CSV ({error})")
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
        return BadRow(number, f"is longer than {MAX_ROW_CHARACTERS:,} characters")
    if wrong := _UNDECODED.search(text):
        return BadRow(number, f"is not UTF-8 (byte {ord(wrong[0]) - 0xDC00:#x})", encoding=True)
    if "\0" in text:
        return BadRow(number, "holds a NUL character", encoding=True)
    return None
