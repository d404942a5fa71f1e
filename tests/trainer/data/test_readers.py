import contextlib
import csv
import io
import json
import tracemalloc
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.csv_records import Lines
from finetune_trainer.data.file_rows import MAX_ROW_CHARACTERS, BadRow, FileFaultError, Row
from finetune_trainer.data.readers import open_rows

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
    assert rows_of(data, "rows.csv")[-1] == BadRow(5, "has 1 cell, the header has 2")


def test_a_csv_row_of_endless_cells_is_a_bad_row_and_costs_no_memory() -> None:
    cell = b"a" * 500_000 + b'\n","'
    data = (cell for cell in (b'text,label\n"', *[cell] * 100, b"\nb,c\n"))
    tracemalloc.start()
    try:
        rows = list(open_rows(data, "rows.csv").rows)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert rows[0] == BadRow(
        2, "is longer than 1,048,576 characters, because a quotation mark is not closed before"
    )
    assert rows[-1] == Row(103, {"text": "b", "label": "c"})


@pytest.mark.parametrize(
    ("line", "reason", "encoding"),
    [
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
        (b'[{"text": "a"}]', "rows.json", r"JSON array.*jq -c '.\[\]'"),
        (b"a,b,a\n1,2,3\n", "rows.csv", "more than once: columns 1, 3"),
        (b"a\xff,b\n1,2\n", "rows.csv", r"line 1 is not UTF-8 \(byte 0xff\)"),
        (b"a\0,b\n1,2\n", "rows.csv", r"its header \(line 1\) .* NUL"),
        (b"a,b\r1,2\r", "rows.csv", "carriage return alone"),
        (b'{"text": 1}\r{"text": 2}\r', "rows.jsonl", "carriage return alone"),
        (b'{\n "text": "a"\n}\n{\n "text": "b"\n}\n', "rows.json", r"pretty-printed.*jq -c"),
        (b"\n \n{\n}\n", "rows", "pretty-printed"),
        (b'{ "text": "a",\n  "label": "x" }\n', "rows.jsonl", "pretty-printed"),
        (b'{"text":\n"a"}\n', "rows.jsonl", "pretty-printed"),
        (b'{"data": [\n{"text": "a"},\n{"text": "b"}\n]}\n', "rows.json", "pretty-printed"),
        (b"a,b\r1,2\r3,4\n", "rows.csv", "carriage return alone"),
        (b'{"text": 1}\r{"text": 2}\r{"text": 3}\n', "rows.jsonl", "carriage return alone"),
        (b'text,"lab"el\n1,2\n', "rows.csv", "its header is not CSV: line 1 has text between the closing"),
        ("text".encode("utf-16-le"), "rows.csv", "UTF-16"),
        (b'{"text": "caf\xe9"}\n', "rows.jsonl", "but probably Windows-1252; save it as UTF-8"),
        (b'{"text": "\x81"}\n', "rows.jsonl", r"is not UTF-8 \(byte 0x81\); save it as UTF-8"),
        ('{"text": "é'.encode() + b'\xe9"}\n', "rows.jsonl", "while other characters beyond ASCII are"),
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
    assert rows_of(b"{]\n", "rows.json" + ending)[0].line == 1


_READ = "it is read as UTF-8 text with {} between the cells; quotation marks {}; the header is line {}"


@pytest.mark.parametrize(
    ("data", "name", "says"),
    [
        (b"a,b\n1,2\n", "rows.csv", None),
        (b"a;b\n1;2\n", "rows.csv", ("semicolons", "enclose cells", 1)),
        (b"a\tb\n1\t2\n", "rows.csv", ("tabs", "enclose cells", 1)),
        (b"a\tb\n1\t2\n", "rows.tsv.gz", None),
        (b'"a"\t"b"\n1\t2\n', "rows.tsv", ("tabs", "enclose cells", 1)),
        (b"a,b\n1,2\n", "rows.tsv", ("commas", "enclose cells", 1)),
        (b"sep=;\r\na;b\r\n1;2\r\n", "rows.csv", ("semicolons", "enclose cells", 2)),
        (b'"sep=;"\r\na;b\r\n1;2\r\n', "rows.csv", ("semicolons", "enclose cells", 2)),
        (b"sep=|\na|b\n1|2\n", "rows.csv", ("'|'", "enclose cells", 2)),
        (b"\r\n \r\na,b\r\n1,2\r\n", "rows.csv", ("commas", "enclose cells", 3)),
        (b";;\na;b\n1;2\n", "rows.csv", ("semicolons", "enclose cells", 2)),
        (b'"x,y,z";b\n1;2\n', "rows.csv", ("semicolons", "enclose cells", 1)),
    ],
)
def test_an_unusual_dialect_is_found_and_said(
    data: bytes, name: str, says: tuple[str, str, int] | None
) -> None:
    opened = open_rows([data], name)
    (row,) = [row.values for row in opened.rows if isinstance(row, Row)]
    assert list(row.values()) == ["1", "2"]
    assert [warning.rpartition(",")[0] for warning in opened.warnings] == (
        [_READ.format(*says)] if says else []
    )
    assert opened.late_warnings() == ()


def test_columns_without_a_name_are_not_read_and_said() -> None:
    opened = open_rows([b";text;label;;\n0;a;x;;\n1;b;y;;\n"], "rows.csv")
    assert opened.columns == ("text", "label")
    assert list(opened.rows) == [
        Row(2, {"text": "a", "label": "x"}),
        Row(3, {"text": "b", "label": "y"}),
    ]
    assert "3 of its columns have no name and are not read" in opened.warnings
    assert opened.late_warnings() == ("2 of its rows have values in columns without a name",)


def test_quotation_marks_are_letters_in_tsv_unless_its_header_has_them() -> None:
    lines = b'text\tlabel\n"He left\ta\n"Now" he said\ta\n"Never"\tb\n'
    opened = open_rows([lines], "rows.tsv")
    texts = [row.values["text"] for row in opened.rows if isinstance(row, Row)]
    assert texts == ['"He left', '"Now" he said', '"Never"']
    (note,) = opened.late_warnings()
    assert note.startswith("1 of its cells begin and end with quotation marks, which are letters")
    quoted = b'"text"\t"label"\n"He ""left"""\ta\n"a\tb"\tc\n'
    assert rows_of(quoted, "rows.tsv") == [
        Row(2, {"text": 'He "left"', "label": "a"}),
        Row(3, {"text": "a\tb", "label": "c"}),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'"He left,a', "opens a quotation mark that is not closed"),
        (b'he said "now",a', "has a quotation mark in a cell that is not enclosed in quotation marks"),
        (b'"Now" he said,a', "has text between the closing quotation mark of a cell and the delimiter"),
        (b"a\rb,c", "has a carriage return in a cell that is not enclosed in quotation marks"),
        (b"a,b,c", "has 3 cells, the header has 2"),
        (b'"a"', "has 1 cell, the header has 2"),
    ],
)
def test_a_line_that_is_no_record_is_a_bad_row_and_reading_resumes_at_the_next_line(
    line: bytes, reason: str
) -> None:
    data = b"text,label\na,b\n" + line + b"\n\nc,d\n"
    assert rows_of(data, "rows.csv") == [
        Row(2, {"text": "a", "label": "b"}),
        BadRow(3, reason),
        Row(5, {"text": "c", "label": "d"}),
    ]


def test_a_quotation_mark_that_a_later_one_closes_takes_no_row_along() -> None:
    data = b'text,label\n"one,a\ntwo,b\nthree ",c\nfour,d\n'
    swallowed = rows_of(data.replace(b'three ",c', b'three "'), "rows.csv")
    assert [(row.line, isinstance(row, Row)) for row in swallowed] == [
        (2, False),
        (3, True),
        (4, False),
        (5, True),
    ]
    assert "has 1 cell and runs over 3 lines, the header has 2" in str(swallowed[0])


_MESSY = st.text(st.sampled_from('ab,;\t"\n\r '), max_size=60)


@given(_MESSY, st.sampled_from(["rows.csv", "rows.tsv"]), st.booleans())
def test_every_line_of_a_table_is_accounted_for(body: str, name: str, quoted: bool) -> None:
    delimiter = "\t" if name == "rows.tsv" else ","
    header = delimiter.join(['"text"', '"label"'] if quoted else ["text", "label"])
    lines = f"{header}\n{body}".encode().removesuffix(b"\n").split(b"\n")
    accounted = [1]
    for row in rows_of(b"\n".join(lines) + b"\n", name):
        accounted += range(row.line, row.line + (row.lines if isinstance(row, Row) else 1))
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip(b" \r")]
    assert len(accounted) == len(set(accounted))
    assert set(accounted) | set(blank) == set(range(1, len(lines) + 1))


def test_no_line_of_a_table_is_looked_at_more_than_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: Counter[int] = Counter()
    next_line = Lines.next_line

    def counted(lines: Lines) -> str | None:
        line = next_line(lines)
        taken[lines.number] += line is not None
        return line

    monkeypatch.setattr(Lines, "next_line", counted)
    body = '"""a",b\n""",x\n"a,b\n' + "c,d\n" * 500 + 'end "x,y\n'
    rows = rows_of(("text,label\n" + body * 8).encode(), "rows.csv")
    assert sum(isinstance(row, Row) for row in rows) >= 8 * 500
    assert max(taken.values()) <= 3  # one for the question whether the header is a title


def test_a_file_of_one_column_has_no_delimiter() -> None:
    for name in ("rows.csv", "rows.tsv"):
        opened = open_rows([b"text\na\n"], name)
        assert (opened.columns, opened.warnings) == (("text",), ())


def test_a_csv_column_may_be_named_like_parquet() -> None:
    assert rows_of(b"PAR1,label\na,b\n", "rows.csv") == [Row(2, {"PAR1": "a", "label": "b"})]


@pytest.mark.parametrize(
    "data",
    [b'{"text": "a"\n{"text": "b"}\n', b'{"text": "a\n{"text": "b"}\n', b'{"text": "a",}\n{"text": "b"}\n'],
)
def test_a_damaged_first_row_is_a_bad_row(data: bytes) -> None:
    first, second = list(open_rows([data], "rows.jsonl").rows)
    assert isinstance(first, BadRow)
    assert second == Row(2, {"text": "b"})


def test_carriage_returns_in_the_cells_of_later_lines_are_text() -> None:
    data = b'text,label\n"a\rb\rc\rd",x\n'
    assert [row.values for row in open_rows([data], "rows.csv").rows if isinstance(row, Row)] == [
        {"text": "a\rb\rc\rd", "label": "x"}
    ]
