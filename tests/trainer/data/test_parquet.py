import datetime as dt
import decimal
import tracemalloc
from collections.abc import Collection
from hashlib import sha512
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import ParquetWriter, write_table

from finetune_trainer.data.file_rows import BadRow, FileFaultError, Row
from finetune_trainer.data.parquet import open_parquet

TURNS = [{"role": "user", "content": "ä\n"}, {"role": "assistant", "content": ""}]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parquet") / "rows.parquet"


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    write_table(pa.table(columns), path, **options)
    return path


def rows_of(path: Path, wanted: Collection[str] = ("text",)) -> list[Row | BadRow]:
    return list(open_parquet(path, wanted).rows)


def values_of(path: Path, column: pa.Array) -> list[Any]:
    rows = rows_of(written(path, {"text": column}))
    assert all(isinstance(row, Row) for row in rows)
    return [row.values["text"] for row in rows if isinstance(row, Row)]


_TEXT = st.none() | st.text(st.characters(codec="utf-8"))


@given(
    st.lists(st.tuples(_TEXT, st.none() | st.integers(-(2**63), 2**63 - 1)), max_size=200),
    st.sampled_from(["none", "snappy", "gzip", "zstd"]),
    st.sampled_from([1, 70, 1000]),
    st.sampled_from(["1.0", "2.6"]),
)
def test_rows_come_back_as_written_with_their_numbers(
    path: Path, rows: list[tuple[str | None, int | None]], compression: str, group: int, version: str
) -> None:
    texts = pa.array([text for text, _ in rows], pa.string())
    columns = {"text": texts, "label": pa.array([label for _, label in rows], pa.int64())}
    written(path, columns, compression=compression, row_group_size=group, version=version)
    opened = open_parquet(path, {"label", "text", "other"})
    assert opened.columns == ("text", "label")
    assert list(opened.rows) == [
        Row(number, {"text": text, "label": label}) for number, (text, label) in enumerate(rows, start=1)
    ]


def test_nested_values_are_plain_lists_and_dicts(path: Path) -> None:
    assert values_of(path, pa.array([TURNS, [], None, TURNS[:1]])) == [TURNS, [], None, TURNS[:1]]
    weighed = [{**TURNS[0], "weight": None}, {**TURNS[1], "weight": 0}]
    assert values_of(path, pa.array([weighed])) == [[TURNS[0], weighed[1]]]
    counts = pa.array([[("a", 1)], []], pa.map_(pa.string(), pa.int32()))
    assert values_of(path, counts) == [{"a": 1}, {}]


@pytest.mark.parametrize(
    ("column", "values"),
    [
        (pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (pa.array(["a"], pa.large_string()), ["a"]),
        (pa.array([1], pa.uint8()), [1]),
        (pa.array([0.5], pa.float32()), [0.5]),
        (pa.array([True]), [True]),
        (pa.nulls(2), [None, None]),
        (pa.array([b"caf\xc3\xa9"]), ["café"]),
        (pa.array([decimal.Decimal("7.00"), decimal.Decimal("1.50")]), [7, 1.5]),
        (pa.array([dt.date(2024, 2, 29)]), ["2024-02-29"]),
        (pa.array([dt.datetime(2024, 2, 29, 1, tzinfo=dt.UTC)]), ["2024-02-29 01:00:00+00:00"]),
        (pa.array([[{"when": dt.date(2024, 2, 29)}]]), [[{"when": "2024-02-29"}]]),
    ],
    ids=str,
)
def test_every_type_becomes_what_json_has(path: Path, column: pa.Array, values: list[Any]) -> None:
    assert values_of(path, column) == values


def test_columns_that_nobody_wants_are_not_read(path: Path) -> None:
    written(path, {"text": ["a" * 50], "text.more": ["b"], "image": ["i" * 1000]}, compression="none")
    data = path.read_bytes()
    path.write_bytes(data.replace(b"i" * 1000, b"\xff" * 1000))
    opened = open_parquet(path, ["text", "text.more"])
    assert opened.columns == ("text", "text.more", "image")
    assert list(opened.rows) == [Row(1, {"text": "a" * 50, "text.more": "b"})]
    assert rows_of(path, ["none"]) == [Row(1, {})]
    with pytest.raises(FileFaultError, match="row 1 is not UTF-8"):
        rows_of(path, ["image"])


def test_a_text_that_is_not_utf8_is_a_fault_of_the_file(path: Path) -> None:
    data = written(path, {"text": [f"row {n}" for n in range(100)]}, compression="none").read_bytes()
    path.write_bytes(data.replace(b"row 55", b"row \xfc5"))
    with pytest.raises(FileFaultError, match=r"row 56 is not UTF-8 \(byte 0xfc\), but probably Windows-1252"):
        rows_of(path)
    written(path, {"text": pa.array([b"a", b"T\xfcr"])})
    with pytest.raises(FileFaultError, match=r"row 2 is not UTF-8 \(byte 0xfc\).*write it again in UTF-8"):
        rows_of(path)


def test_a_date_that_python_cannot_say_is_a_bad_row(path: Path) -> None:
    written(path, {"text": pa.array([0, 2**31 - 1], pa.date32())})
    first, second = rows_of(path)
    assert first == Row(1, {"text": "1970-01-01"})
    assert isinstance(second, BadRow)


def text_rows(path: Path) -> bytes:
    return written(path, {"text": [f"some text {n * n}" for n in range(5000)]}).read_bytes()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "no Parquet file"),
        (b'{"text": "a"}\n', "no Parquet file"),
        (b"PAR1", "damaged"),
        (b"PAR1PAR1", "damaged"),
        (b"PAR1" + b"\0" * 20 + b"PAR1", "damaged"),
        (b"PAR1" + b"\xff" * 20 + b"PAR1", "damaged"),
        (b"PARE" + b"\0" * 20 + b"PARE", "is encrypted"),
    ],
)
def test_what_is_no_parquet_says_so(path: Path, data: bytes, says: str) -> None:
    path.write_bytes(data)
    with pytest.raises(FileFaultError, match=says):
        open_parquet(path, ["text"])


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_a_truncated_file_is_a_fault(path: Path, kept: float) -> None:
    data = text_rows(path)
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(FileFaultError, match="truncated Parquet file; upload the whole file"):
        open_parquet(path, ["text"])


def test_damaged_pages_are_a_fault(path: Path) -> None:
    data = text_rows(path)
    path.write_bytes(data[:1000] + b"\xff" * 1000 + data[2000:])
    with pytest.raises(FileFaultError, match="is damaged"):
        rows_of(path)


def test_a_page_whose_checksum_is_wrong_is_a_fault(path: Path) -> None:
    written(path, {"text": ["a" * 99]}, compression="none", write_page_checksum=True, write_statistics=False)
    path.write_bytes(path.read_bytes().replace(b"aaa", b"aab", 1))
    with pytest.raises(FileFaultError, match="checksum"):
        rows_of(path)


def test_a_column_that_occurs_twice_is_a_fault(path: Path) -> None:
    write_table(pa.table([["a"], ["b"]], names=["text", "text"]), path)
    with pytest.raises(FileFaultError, match="'text' more than once"):
        open_parquet(path, ["text"])


def test_a_page_that_unpacks_to_a_thousand_times_its_size_is_not_unpacked(path: Path) -> None:
    written(path, {"text": ["a" * 5_000_000]}, compression="zstd", use_dictionary=False)
    with pytest.raises(
        FileFaultError, match=r"200 times its size \([0-9,]+ bytes become [0-9,]+ or more\); write it as"
    ):
        open_parquet(path, ["text"])


def test_rows_without_any_content_are_a_bomb(path: Path) -> None:
    with ParquetWriter(path, pa.schema([("text", pa.int8())])) as writer:
        for _ in range(3):
            writer.write(pa.table({"text": pa.nulls(2_000_000, pa.int8())}), row_group_size=2_000_000)
    with pytest.raises(
        FileFaultError, match=r"200 times its size \([0-9,]+ bytes become [0-9,]+ or more\); write it as"
    ):
        open_parquet(path, ["other"])


def test_a_large_file_costs_little_memory(path: Path) -> None:
    texts = [sha512(str(number).encode()).hexdigest() * 7 for number in range(1000)]
    written(path, {"text": [text for text in texts for _ in range(50)]}, use_dictionary=False)
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        highest = max(pa.total_allocated_bytes() for _ in open_parquet(path, ["text"]).rows)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert highest - before < 20_000_000
