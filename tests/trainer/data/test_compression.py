import gzip
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.data.compression import MAX_EXPANSION, decompress
from finetune_trainer.data.file_rows import FileFaultError

Pack = Callable[[bytes], bytes]
LINES = b"".join(b'{"text": "%d"}\n' % number for number in range(100_000))
SKIPPABLE = b"\x50\x2a\x4d\x18" + (5).to_bytes(4, "little") + b"hello"


def zstd(data: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(data))


def streamed_zstd(data: bytes) -> bytes:
    """As `zstd <file >file.zst` writes it: the frame does not say how long it will be."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


PACKS = pytest.mark.parametrize("pack", [gzip.compress, zstd, streamed_zstd])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("packed") / "file"


def content(path: Path, data: bytes) -> bytes:
    path.write_bytes(data)
    return b"".join(decompress(path))


@PACKS
@given(st.lists(st.binary(max_size=50), max_size=4), st.sampled_from([1, 20_000]))
def test_members_and_frames_come_back_as_one_content(
    path: Path, pack: Pack, parts: list[bytes], times: int
) -> None:
    parts = [part * times for part in parts]
    assert content(path, b"".join(pack(part) for part in parts)) == b"".join(parts)


def test_what_is_not_packed_comes_as_it_is(path: Path) -> None:
    for data in (b"", b"(", b"\x28\xb5\x2f", LINES):
        assert content(path, data) == data


def test_frames_that_zstd_skips_may_come_first(path: Path) -> None:
    assert content(path, SKIPPABLE + zstd(b"a") + SKIPPABLE + zstd(b"b")) == b"ab"


@PACKS
@pytest.mark.parametrize("missing", [1, 9, 5_000])
def test_a_truncated_file_is_a_fault(path: Path, pack: Pack, missing: int) -> None:
    for data in (pack(LINES), pack(b"first") + pack(LINES)):
        with pytest.raises(FileFaultError, match="is truncated; upload the whole file"):
            content(path, data[:-missing])


@PACKS
def test_a_damaged_file_is_a_fault(path: Path, pack: Pack) -> None:
    packed = pack(LINES)
    for data in (packed + b"garbage", packed[:10] + b"\xff" * 20 + packed[30:]):
        with pytest.raises(FileFaultError, match="is damaged"):
            content(path, data)


@PACKS
def test_a_bomb_is_given_up_and_costs_no_memory(path: Path, pack: Pack) -> None:
    path.write_bytes(pack(b"a" * 10_000_000) * 100)
    pieces = (len(piece) for piece in decompress(path))
    tracemalloc.start()
    try:
        with pytest.raises(
            FileFaultError, match=f"unpacks to more than {MAX_EXPANSION} times its size .*upload it without"
        ):
            sum(pieces)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


def test_an_empty_member_before_a_bomb_hides_nothing(path: Path) -> None:
    with pytest.raises(FileFaultError, match="200 times"):
        content(path, zlib.compress(b"", wbits=31) + gzip.compress((b"a" * 1000 + b"\n") * 50_000))
