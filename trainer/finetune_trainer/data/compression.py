"""IO: decompresses gzip and zstd files. The first bytes of a file decide, not its name."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from finetune_trainer.data.readers import FileFaultError

MAX_EXPANSION = 200
"""Bytes that one byte of a file may become; text reaches about 20, a bomb 1,000."""
_FREE_EXPANSION_BYTES = 4 * 1024 * 1024
_PIECE = 1024 * 1024
_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"
"""Follows a byte 0x50 to 0x5f; parallel zstd writes such a frame first."""


def unpacked(path: Path) -> Iterator[bytes]:
    """The content in pieces; several gzip members or zstd frames are one content.

    Raises:
        FileFaultError: truncated, damaged, or unpacks to more than MAX_EXPANSION times its size.
    """
    with path.open("rb") as file:
        kind = _kind(file.read(4))
        file.seek(0)
        while kind is None and (piece := file.read(_PIECE)):
            yield piece
    if kind is not None:
        yield from _unpacked(path, kind)


def check_expansion(packed: int, content: int, what: str, way_out: str) -> None:
    """Refuses what would fill memory or disk from a small file; the first 4 MiB are free."""
    if content > _FREE_EXPANSION_BYTES and content > MAX_EXPANSION * packed:
        raise FileFaultError(
            f"its {what} unpacks to more than {MAX_EXPANSION} times its size"
            f" ({packed:,} bytes become {content:,} or more); {way_out}"
        )


def _kind(start: bytes) -> str | None:
    if start.startswith(_GZIP):
        return "gzip"
    skippable = start[1:] == _ZSTD_SKIPPABLE and start[0] >> 4 == 5  # noqa: PLR2004 - 0x50 to 0x5f
    return "zstd" if start == _ZSTD or skippable else None


def _unpacked(path: Path, kind: str) -> Iterator[bytes]:
    given = 0
    with pa.OSFile(str(path)) as packed, pa.CompressedInputStream(packed, kind) as content:
        while piece := _next(content, kind):
            given += len(piece)
            check_expansion(packed.tell(), given, kind, f"upload it without {kind} if that is meant")
            yield piece


def _next(content: pa.CompressedInputStream, kind: str) -> bytes:
    try:
        return bytes(content.read(_PIECE))
    except OSError as error:
        if "Truncated" in str(error):
            raise FileFaultError(f"its {kind} is truncated; upload the whole file") from None
        raise FileFaultError(f"its {kind} is damaged; upload the file again") from None
