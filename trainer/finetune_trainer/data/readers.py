"""PURE: reads rows with line numbers from a text file: JSON Lines or CSV.

A row that cannot be used becomes a BadRow. A file that cannot be read, such as a file that is not UTF-8,
raises FileFaultError. Every line belongs to exactly one Row or BadRow, is blank, or belongs to the header. At
most a few rows are in memory.
"""

import json
import re
from collections.abc import Iterable, Iterator

from finetune_trainer.data.csv_reader import open_csv, peek_line
from finetune_trainer.data.csv_records import (
    TOO_LONG,
    Lines,
)
from finetune_trainer.data.file_rows import (
    MAX_ROW_CHARACTERS,
    BadRow,
    FileFaultError,
    OpenedFile,
    Row,
    check_text,
)

JSON_NAMES = (".jsonl", ".ndjson", ".json")
CSV_NAMES = (".csv", ".tsv")
COMPRESSED_NAMES = (".gz", ".zst")
"""Endings of compressed files, after the ending of the format."""
_BOM = b"\xef\xbb\xbf"
_PARQUET = b"PAR1"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")
_START_BYTES = 64 * 1024
"""Number of bytes in which the first line end is searched."""
_UNDECODED = re.compile("[\udc80-\udcff]+")
_BEYOND_ASCII = re.compile("[^\x00-\x7f\udc80-\udcff]")


def open_rows(chunks: Iterable[bytes], name: str) -> OpenedFile:
    """Opens a text file; the rows are read on iteration.

    Args:
        chunks: the bytes of the file, in chunks of any size.
        name: name of the file. An ending in JSON_NAMES or CSV_NAMES (also of a compressed file) determines
            the format, otherwise the first character determines the format.

    Raises:
        FileFaultError: the file is not UTF-8, is Parquet, a JSON array, or JSON over several lines, has lines
            that end in CR alone, or an ambiguous header. The iteration over the rows raises FileFaultError
            for a line that is not UTF-8, and the exceptions of `chunks`.
    """
    warnings: list[str] = []
    content = iter(chunks)
    start = next(content, b"")
    while (
        len(start) < _START_BYTES
        and b"\n" not in start.lstrip()
        and (more := next(content, None)) is not None
    ):
        start += more
    stem = uncompressed_name(name)
    _check_start(start, stem)
    if start.startswith(_BOM):
        warnings.append("a byte order mark at its start was left out")
        start = start.removeprefix(_BOM)
    lines = Lines(_check_utf8(_split_lines(_chain(start, content))))
    first = start.lstrip()[:1]
    if stem.endswith(CSV_NAMES) or not (stem.endswith(JSON_NAMES) or first in {b"{", b"["}):
        return open_csv(lines, warnings, tabs=stem.endswith(".tsv"))
    if first == b"[":
        raise FileFaultError(
            "it is one JSON array; write one JSON object a line (JSON Lines), for example with jq -c '.[]'"
        )
    _check_not_pretty_printed(lines)
    return OpenedFile(_read_json_lines(lines), (), tuple(warnings))


def _check_start(start: bytes, stem: str) -> None:
    """Raises FileFaultError if the first bytes show UTF-16, Parquet, or lines that end in CR alone."""
    if start.startswith(_UTF16_BOMS) or b"\0\0" in {start[0:4:2], start[1:4:2]}:
        raise FileFaultError("it is UTF-16; save it as UTF-8")
    if start.startswith(_PARQUET) and not stem.endswith(CSV_NAMES):
        raise FileFaultError("it is a Parquet file; upload it as it is, under a name that ends in .parquet")
    first_line, *rest = start.split(b"\n", maxsplit=1)
    returns = start.count(b"\r") - start.count(b"\r\n")
    if b"\r" in first_line[:-1] and returns > sum(line.count(b"\n") for line in rest):
        raise FileFaultError(
            "its lines end in a carriage return alone (CR), as on old Macintosh computers; save it with the"
            " line ends of Unix (LF) or Windows (CRLF)"
        )


def _check_not_pretty_printed(lines: Lines) -> None:
    """Raises FileFaultError if the first line is the beginning of a JSON text that later lines continue."""
    first = peek_line(lines).strip()
    try:
        json.loads(first)
    except json.JSONDecodeError as error:
        continues = error.pos >= len(first) and first.endswith(("{", "[", ",", ":"))
    except (ValueError, RecursionError):
        return
    else:
        return
    if continues:
        raise FileFaultError(
            "it is JSON over several lines (pretty-printed); write one JSON object a line (JSON Lines), for"
            " example with jq -c"
        )


def uncompressed_name(name: str) -> str:
    """Returns a file name in lower case, without the ending of a compressed file."""
    name = name.lower()
    return next((name.removesuffix(ending) for ending in COMPRESSED_NAMES if name.endswith(ending)), name)


def _chain(start: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    if start:
        yield start
    yield from rest


def _split_lines(content: Iterator[bytes]) -> Iterator[str]:
    """Yields decoded lines with line ends.

    Bytes that are not UTF-8 become lone surrogates. A line that is too long becomes TOO_LONG.
    """
    kept: list[bytes] = []
    size = 0
    for chunk in content:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            size += end + 1 - start
            kept.append(chunk[start : end + 1] if size <= 4 * MAX_ROW_CHARACTERS else b"")
            yield _decode_line(kept, size)
            kept, size, start = [], 0, end + 1
        size += len(chunk) - start
        # Bytes beyond the limit are counted, but not kept, so a line of 100 MB needs little memory.
        kept.append(chunk[start:] if size <= 4 * MAX_ROW_CHARACTERS else b"")
    if size:
        yield _decode_line(kept, size)


def _decode_line(pieces: list[bytes], size: int) -> str:
    if size > 4 * MAX_ROW_CHARACTERS:
        return TOO_LONG
    text = b"".join(pieces).decode("utf-8", errors="surrogateescape")
    return text if len(text) <= MAX_ROW_CHARACTERS else TOO_LONG


def _check_utf8(lines: Iterator[str]) -> Iterator[str]:
    """Yields the lines unchanged.

    Raises:
        FileFaultError: a line is not UTF-8.
    """
    for number, line in enumerate(lines, start=1):
        if line != TOO_LONG and (wrong := _UNDECODED.search(line)):
            why, windows = describe_encoding_fault(wrong[0], line)
            advice = (
                "save it as UTF-8 (in Excel: CSV UTF-8), or convert it with iconv -f WINDOWS-1252 -t UTF-8"
                if windows
                else "save it as UTF-8"
            )
            raise FileFaultError(f"line {number} {why}; {advice}")
        yield line


def describe_encoding_fault(wrong: str, text: str) -> tuple[str, bool]:
    """Describes a text that is not UTF-8.

    Args:
        wrong: the first bytes that are not UTF-8, as lone surrogates.
        text: the whole text, decoded with surrogateescape.

    Returns:
        The description, and whether the encoding is probably Windows-1252.
    """
    data = wrong.encode("utf-8", errors="surrogateescape")
    description = f"is not UTF-8 (byte {data[0]:#04x})"
    if _BEYOND_ASCII.search(text):
        return f"{description}, while other characters beyond ASCII are", False
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return description, False
    return f"{description}, but probably Windows-1252", True


def _read_json_lines(lines: Lines) -> Iterator[Row | BadRow]:
    while (line := lines.next_line()) is not None:
        if not line.strip():
            continue
        number = lines.number
        if bad := check_text(line, number):
            yield bad
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield BadRow(number, f"is not JSON ({_describe_json_fault(error)})")
            continue
        if isinstance(values, dict):
            yield Row(number, values)
        else:
            yield BadRow(number, f"is a JSON {type(values).__name__}, not an object")


def _describe_json_fault(error: ValueError | RecursionError) -> str:
    """Describes the fault of a JSON text without quoting the text."""
    match error:
        case json.JSONDecodeError():
            # The parser can quote the text after a colon.
            return f"{error.msg.partition(':')[0]}: character {error.pos + 1}"
        case RecursionError():
            return "it nests too deeply"
        case _:
            return "a number has too many digits"
