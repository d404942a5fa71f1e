import contextlib
import csv
import io
import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.readers import MAX_ROW_CHARACTERS, BadRow, FileFaultError, Row, open_rows

_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
_CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1)


def rows_of(data: bytes, name: str = "rows.jsonl") -> list[Row | BadRow]:
    return list(open_rows([data], name).rows)


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    return (data[start : start + size] for start in range(0, len(data), size))


@given(st.lists(st.dictionaries(_TEXT, _TEXT | st.integers() | st.none())), st.integers(1, 50))
def test_json_lines_come_back_as_written(rows: list[dict[str, object]], size: int) -> None:
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    read = list(open_rows(pieces(data, size), "rows.jsonl").rows)
    assert read == [Row(number, row) for number, row in enumerate(rows, start=1)]


@given(st.lists(st.tuples(_CELL, _CELL)), st.sampled_from(",;\t"), st.integers(1, 50))
def test_csv_comes_back_as_written(cells: list[tuple[str, str]], delimiter: str, size: int) -> None:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerows([("text", "label"), *cells])
    opened = open_rows(pieces(text.getvalue().encode(), size), "rows.csv")
    assert opened.columns == ("text", "label")
    assert [(row.values["text"], row.values["label"]) for row in opened.rows if isinstance(row, Row)] == cells


@given(st.binary(), st.sampled_from(["rows.jsonl", "rows.csv", "rows", "rows.tsv.gz"]))
def test_any_bytes_end_in_rows_or_a_fault(data: bytes, name: str) -> None:
    with contextlib.suppress(FileFaultError):
        for row in open_rows([data], name).rows:
            assert row.line >= 1


def test_a_csv_row_is_named_by_the_line_where_it_starts() -> None:
    data = b'text,label\n"two\nlines",a\nb,c\nonly one\n'
    assert [row.line for row in rows_of(data, "rows.csv")] == [2, 4, 5]
    assert rows_of(data, "rows.csv")[-1] == BadRow(5, "has 1 cells, the header 2")


def test_a_csv_row_of_endless_cells_is_a_bad_row_and_costs_no_memory() -> None:
    cell = b"a" * 500_000 + b'\n","'
    data = (cell for cell in (b'text,label\n"', *[cell] * 100, b"\nb,c\n"))
    tracemalloc.start()
    try:
        rows = list(open_rows(data, "rows.csv").rows)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert rows[0] == BadRow(2, "is longer than 1,048,576 characters")
    assert rows[-1] == Row(103, {"text": "b", "label": "c"})


@pytest.mark.parametrize(
    ("line", "reason", "encoding"),
    [
        (b'{"text": "a\xff"}', "is not UTF-8 (byte 0xff)", True),
        (b'{"text": "a\x00"}', "holds a NUL character", True),
        (b'{"text": ', "is not JSON", False),
        (b'["text"]', "is a JSON list, not an object", False),
        (b"[" * 100_000, "is not JSON", False),
        (b"1" * 5000, "is not JSON", False),
        (b'{"text": "' + b"a" * MAX_ROW_CHARACTERS + b'"}', "is longer than 1,048,576 characters", False),
    ],
)
def test_an_unreadable_line_is_a_bad_row_and_the_next_is_read(
    line: bytes, reason: str, encoding: bool
) -> None:
    first, bad, last = rows_of(b'{"text": "b"}\n' + line + b'\n{"text": "c"}\n')
    assert isinstance(first, Row)
    assert isinstance(bad, BadRow)
    assert (bad.line, bad.encoding) == (2, encoding)
    assert bad.reason.startswith(reason)
    assert last == Row(3, {"text": "c"})


def test_a_line_of_100_megabytes_costs_no_memory() -> None:
    def chunks() -> Iterator[bytes]:
        yield b'{"text": "'
        for _ in range(100):
            yield b"a" * 1_000_000
        yield b'"}\n{"text": "b"}\n'

    tracemalloc.start()
    try:
        bad, good = list(open_rows(chunks(), "rows.jsonl").rows)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(bad, BadRow)
    assert good == Row(2, {"text": "b"})
    assert peak < 20_000_000


def test_a_byte_order_mark_is_left_out_with_a_warning() -> None:
    opened = open_rows([b"\xef", b'\xbb\xbf{"text": "a"}\n'], "rows.jsonl")
    assert list(opened.rows) == [Row(1, {"text": "a"})]
    assert "byte order mark" in opened.warnings[0]


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        ("text".encode("utf-16"), "rows.csv", "UTF-16"),
        (b'[{"text": "a"}]', "rows.json", "JSON array"),
        (b"a,b,a\n1,2,3\n", "rows.csv", "more than once: columns 1, 3"),
        (b"a\xff,b\n1,2\n", "rows.csv", "header"),
        (b"a,b\r1,2\r", "rows.csv", "its header is not CSV"),
        (b"PAR1" + b"\0" * 99 + b"PAR1", "rows.jsonl", "is a Parquet file"),
        (b"PAR1" + b"\0" * 99 + b"PAR1", "rows", "ends in .parquet"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(data: bytes, name: str, says: str) -> None:
    with pytest.raises(FileFaultError, match=says):
        rows_of(data, name)


@pytest.mark.parametrize("ending", ["", ".gz", ".ZST"])
def test_the_name_of_a_packed_file_tells_its_kind(ending: str) -> None:
    csv_data, json_data = b"text\n{\n", b'{"text": "{"}\n'
    assert rows_of(csv_data, "rows.CSV" + ending) == [Row(2, {"text": "{"})]
    assert rows_of(json_data, "rows.json" + ending) == [Row(1, {"text": "{"})]
    assert rows_of(b"{\n", "rows.json" + ending)[0].line == 1


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"a,b\n1,2\n", "rows.csv", ()),
        (b"a;b\n1;2\n", "rows.csv", ("its columns are separated by semicolons",)),
        (b"a\tb\n1\t2\n", "rows.csv", ("its columns are separated by tabs",)),
        (b"a\tb\n1\t2\n", "rows.tsv.gz", ()),
        (b"a,b\n1,2\n", "rows.tsv", ("its columns are separated by commas",)),
    ],
)
def test_an_unusual_delimiter_is_found_and_said(data: bytes, name: str, says: tuple[str, ...]) -> None:
    opened = open_rows([data], name)
    assert (opened.columns, opened.warnings) == (("a", "b"), says)
    assert list(opened.rows) == [Row(2, {"a": "1", "b": "2"})]


def test_a_file_of_one_column_has_no_delimiter() -> None:
    for name in ("rows.csv", "rows.tsv"):
        opened = open_rows([b"text\na\n"], name)
        assert (opened.columns, opened.warnings) == (("text",), ())


def test_a_csv_column_may_be_named_like_parquet() -> None:
    assert rows_of(b"PAR1,label\na,b\n", "rows.csv") == [Row(2, {"PAR1": "a", "label": "b"})]
