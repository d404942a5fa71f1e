import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow.parquet import ParquetFile, write_table

from finetune_trainer.data.file_rows import MAX_ROW_CHARACTERS, BadRow, FileFaultError, Row
from finetune_trainer.data.parquet_worker import MEMORY_MIB, Open, parquet_process

TURNS = [{"role": "user", "content": "ä\n\u2028"}, {"role": "assistant", "content": ""}]
NEEDS_MORE = (
    "its Parquet needs more than 1,024 MiB of memory; write it with smaller pages and shorter rows,"
    " or as JSON Lines"
)
GOOD = [Row(1, {"text": "good"})]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("parquet") / "rows.parquet"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("parquet") / "good.parquet", {"text": ["good"]})


@pytest.fixture(scope="module")
def opened() -> Iterator[Open]:
    with parquet_process() as opened:
        yield opened


def written(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    write_table(pa.table(columns), path, **options)
    return path


def fault_of(opened: Open, path: Path) -> str:
    with pytest.raises(FileFaultError) as fault:
        list(opened(path, ["text"]).rows)
    return str(fault.value)


def repeated(text: str, times: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), [text])


def long_list(items: int) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array([0, items], pa.int32()), pa.nulls(items))


def children() -> set[str]:
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())


def worker_peak_mib() -> float:
    """The largest resident memory that the running worker has had."""
    (worker,) = (
        process
        for process in map(Path("/proc").joinpath, children())
        if b"finetune_trainer.data.parquet_worker" in (process / "cmdline").read_bytes()
    )
    (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", (worker / "status").read_text(), re.MULTILINE)
    return int(peak) / 1024


def test_rows_come_back_as_they_are_read(opened: Open, path: Path) -> None:
    columns = {
        "text": ["a", None, "\n"],
        "turns": [TURNS, [], None],
        "raw": [b"cafe", b"", b"\xc3\xa9"],
        "score": [0.1, float("inf"), -(2.0**70)],
    }
    asked = opened(written(path, columns), [*columns, "other"])
    assert asked.columns == tuple(columns)
    values = [dict(zip(columns, each, strict=True)) for each in zip(*columns.values(), strict=True)]
    raws = ("cafe", "", "é")
    assert list(asked.rows) == [
        Row(number, {**row, "raw": raw})
        for number, (row, raw) in enumerate(zip(values, raws, strict=True), 1)
    ]


def test_a_bad_row_comes_back_as_one(opened: Open, path: Path) -> None:
    first, second = opened(written(path, {"text": pa.array([0, 2**31 - 1], pa.date32())}), ["text"]).rows
    assert isinstance(first, Row)
    assert isinstance(second, BadRow)
    assert (second.line, second.encoding) == (2, True)


def test_a_text_that_is_not_utf8_comes_back_as_a_fault_of_the_file(opened: Open, path: Path) -> None:
    data = written(path, {"text": ["row 1", "row 2"]}, compression="none").read_bytes()
    path.write_bytes(data.replace(b"row 2", b"row \xff"))
    with pytest.raises(FileFaultError, match="row 2 is not UTF-8"):
        list(opened(path, ["text"]).rows)


def test_a_row_that_is_too_long_is_a_bad_row(opened: Open, path: Path) -> None:
    rows = list(
        opened(written(path, {"text": ["a", "b" * MAX_ROW_CHARACTERS, "c" * 1_000_000]}), ["text"]).rows
    )
    assert rows[0] == Row(1, {"text": "a"})
    assert rows[1] == BadRow(2, "is longer than 1,048,576 characters")
    assert isinstance(rows[2], Row)


def test_the_longest_rows_that_are_taken_fit_into_the_memory(opened: Open, path: Path) -> None:
    texts = [f"{number:02}" + "ä" * (MAX_ROW_CHARACTERS - 100) for number in range(70)]
    written(path, {"text": texts}, compression="none", use_dictionary=False, data_page_size=200_000_000)
    assert sum(isinstance(row, Row) for row in opened(path, ["text"]).rows) == 70


def test_a_fault_of_a_file_does_not_reach_the_next(opened: Open, path: Path, good: Path) -> None:
    path.write_bytes(b"no Parquet")
    assert fault_of(opened, path) == "it is no Parquet file, whatever its name says"
    assert list(opened(good, ["text"]).rows) == GOOD


def test_one_long_value_in_many_rows_is_a_bomb(opened: Open, path: Path) -> None:
    written(path, {"text": repeated("a" * 200_000, 5_000)}, compression="zstd")
    assert "200 times its size" in fault_of(opened, path)


@pytest.mark.parametrize(
    ("make", "size"),
    [
        # 2.6 GB in one batch of rows
        (lambda: repeated("a" * 40_000_000, 64), 41_000_000),
        (lambda: long_list(120_000_000), 1_000),
    ],
    ids=["value", "list"],
)
def test_what_no_declared_size_tells_is_a_fault_and_the_next_file_is_read(
    opened: Open, path: Path, good: Path, make: Callable[[], pa.Array], size: int
) -> None:
    written(path, {"text": make()}, compression="none")
    assert ParquetFile(path).metadata.row_group(0).total_byte_size < path.stat().st_size < size
    assert fault_of(opened, path) == NEEDS_MORE
    assert list(opened(good, ["text"]).rows) == GOOD
    # The baseline is what Python and pyarrow take.
    assert 100 < worker_peak_mib() < MEMORY_MIB + 400


def test_a_page_that_is_larger_than_its_file_declares_is_a_fault(
    opened: Open, path: Path, good: Path
) -> None:
    options = {"compression": "zstd", "use_dictionary": False, "write_statistics": False}
    data = written(path, {"text": ["a" * 140_000_000]}, **options).read_bytes()
    footer = ParquetFile(path).metadata.row_group(0).total_byte_size
    for was, lie in ((footer, 1_000), (140_000_010, 2**31 - 1)):  # 6 bytes of levels, 4 of length
        assert varint(was) in data
        data = data.replace(varint(was), varint(lie, len(varint(was))))
    path.write_bytes(data)
    assert ParquetFile(path).metadata.row_group(0).total_byte_size == 1_000
    assert fault_of(opened, path) == NEEDS_MORE
    assert list(opened(good, ["text"]).rows) == GOOD


def varint(number: int, width: int = 0) -> bytes:
    """A zigzag number as Thrift's compact protocol writes it, with needless zeros up to a width."""
    rest, out = number * 2, bytearray()
    while rest > 0x7F or len(out) + 1 < width:
        out.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*out, rest])


def test_a_process_that_dies_is_a_fault_and_another_reads_the_next_file(path: Path, good: Path) -> None:
    before = children()
    with parquet_process() as opened:
        assert list(opened(good, ["text"]).rows) == GOOD
        rows = opened(written(path, {"text": ["a" * 1000] * 50_000}, use_dictionary=False), ["text"]).rows
        assert next(rows) == Row(1, {"text": "a" * 1000})
        (process,) = children() - before
        os.kill(int(process), signal.SIGKILL)
        with pytest.raises(
            FileFaultError, match="is damaged, or needs more than 1,024 MiB of memory; write it"
        ):
            list(rows)
        assert list(opened(good, ["text"]).rows) == GOOD
    assert children() == before


def test_a_file_that_is_not_read_to_its_end_does_not_mix_with_the_next(path: Path, good: Path) -> None:
    with parquet_process() as opened:
        rows = opened(written(path, {"text": ["a", "b"]}), ["text"]).rows
        assert next(rows) == Row(1, {"text": "a"})
        del rows
        assert list(opened(good, ["text"]).rows) == GOOD


def test_nothing_is_started_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    with parquet_process():
        pass


@given(st.data())
def test_any_damage_ends_in_rows_or_a_fault(opened: Open, path: Path, data: st.DataObject) -> None:
    columns = {"text": ["some text", None, "more"], "turns": [TURNS, [], None], "label": [1, 2, 3]}
    content = bytearray(written(path, columns, compression="snappy").read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    with contextlib.suppress(FileFaultError):
        for row in opened(path, list(columns)).rows:
            assert row.line >= 1
