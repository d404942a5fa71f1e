"""IO: decompresses gzip and zstd files, which are detected by their first bytes."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa

from finetune_trainer.data.file_rows import FileFaultError

MAX_EXPANSION = 200
"""Maximum ratio of decompressed size to file size; text reaches about 20, a decompression bomb 1,000."""
_FREE_EXPANSION_BYTES = 4 * 1024 * 1024
_CHUNK_BYTES = 1024 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""Bytes 2 to 4 of a skippable frame, whose first byte is 0x50 to 0x5f. pzstd begins files with such a
frame."""


def decompress(path: Path, on_position: Callable[[int], None] = lambda _: None) -> Iterator[bytes]:
    """Yields the content of a file in chunks, decompressed if the file is compressed.

    The content of several gzip members or zstd frames is concatenated.

    Args:
        path: path of the file.
        on_position: called before each chunk with the number of bytes of the file that were read.

    Raises:
        FileFaultError: the file is truncated or damaged, or expands to more than MAX_EXPANSION times its
            size.
    """
    with path.open("rb") as file:
        kind = _detect_format(file.read(4))
        file.seek(0)
        while kind is None and (chunk := file.read(_CHUNK_BYTES)):
            on_position(file.tell())
            yield chunk
    if kind is not None:
        yield from _decompress(path, kind, on_position)


def check_expansion(compressed: int, content: int, what: str, advice: str) -> None:
    """Checks that a file does not expand to more than MAX_EXPANSION times its size.

    Args:
        compressed: bytes of the file that were read.
        content: bytes of content; up to 4 MiB are always allowed.
        what: name of the compression or file format in the message.
        advice: what the user can do, in the message.

    Raises:
        FileFaultError: the content is too large.
    """
    if content > _FREE_EXPANSION_BYTES and content > MAX_EXPANSION * compressed:
        raise FileFaultError(
            f"its {what} unpacks to more than {MAX_EXPANSION} times its size"
            f" ({compressed:,} bytes become {content:,} or more); {advice}"
        )


def _detect_format(start: bytes) -> str | None:
    if start.startswith(_GZIP):
        return "gzip"
    skippable = start[1:] == _ZSTD_SKIPPABLE and start[0] >> 4 == 5  # noqa: PLR2004 - 0x50 to 0x5f
    return "zstd" if start == _ZSTD or skippable else None


def _decompress(path: Path, kind: str, on_position: Callable[[int], None]) -> Iterator[bytes]:
    size = 0
    with pa.OSFile(str(path)) as compressed, pa.CompressedInputStream(compressed, kind) as content:
        while chunk := _read_chunk(content, kind):
            size += len(chunk)
            on_position(compressed.tell())
            check_expansion(compressed.tell(), size, kind, f"upload it without {kind} if that is meant")
            yield chunk


def _read_chunk(content: pa.CompressedInputStream, kind: str) -> bytes:
    try:
        return bytes(content.read(_CHUNK_BYTES))
    except OSError as error:
        if "Truncated" in str(error):
            raise FileFaultError(f"its {kind} is truncated; upload the whole file") from None
        raise FileFaultError(f"its {kind} is damaged; upload the file again") from None
