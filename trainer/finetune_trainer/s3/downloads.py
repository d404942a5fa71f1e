"""IO: reads objects in parallel ranges, and compares the content with the checksums of the store."""

import hashlib
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from functools import partial
from typing import Any, BinaryIO

import obstore

from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.checksums import EtagDigest, Stated, Verdict, even_parts, judge, stated
from finetune_trainer.s3.clients import Clients
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.objects import ObjectInfo, Transfer, look, missing
from finetune_trainer.s3.retries import persist
from finetune_trainer.s3.uris import S3Uri

log = logging.getLogger(__name__)

RANGE_BYTES = 16 * 1024 * 1024
"""Size of a range in bytes; PARALLEL ranges are read at the same time."""
PARALLEL = 4
_REPORT_BYTES = 256 * 1024
"""Bytes after which a request calls `on_bytes`; with 100 kB/s, a call every few seconds."""
_READINGS = 3
_MAX_ASKED_PARTS = 1000
"""Maximum number of parts whose sizes the trainer requests separately, if the parts have different sizes."""


def read_into(
    clients: Clients,
    where: S3Uri,
    sink: BinaryIO,
    *,
    limit: int | None = None,
    expected: Digest | None = None,
    on_bytes: OnBytes = ignore_bytes,
) -> Transfer:
    """Reads an object, and reads it again if the content does not match its checksum.

    Args:
        clients: clients of the store.
        where: URI of the object.
        sink: file for the content; the function overwrites the file.
        limit: maximum size in bytes; a larger object is refused (ObjectTooLarge) before it is read.
        expected: SHA-256 of the content; None for the checksum in the headers of the store.
        on_bytes: receives the number of bytes during the transfer, also before the end of a request.

    Raises:
        StageFailure: ObjectMissing, ObjectTooLarge, ObjectChanged, ObjectCorrupt, or a failure of the store.
    """
    before = None
    for reading in range(1, _READINGS + 1):
        found = look(clients, where)
        if found is None:
            raise missing(clients, where)
        entry, headers = found
        _check_size(entry, limit)
        states = Stated(sha256=expected) if expected else stated(headers)
        came, verdict = _read_once(clients, where, entry, states, sink, reading, on_bytes)
        again = came.digest == before
        if verdict == "right" or (verdict == "doubtful" and again):
            return came
        log.warning("%s came with the SHA-256 %s; it should have the %s", where, came.digest, states)
        if again:
            break
        before = came.digest
    raise StageFailure(
        FailureClass.STORAGE,
        "ObjectCorrupt",
        f"{where} comes with other bytes than it should: SHA-256 {came.digest}, not {states}.",
        "Check the store's disks and the network; if the object is an input, upload it again.",
    )


def agreed_range(clients: Clients, where: S3Uri, start: int, length: int) -> bytes:
    """Reads a range of an object twice and compares both results, because stores have no checksums of ranges.

    Each reading requests a longer range, so that a fault does not corrupt both readings in the same way.
    """

    def fetch(reading: int) -> bytes:
        bucket = clients.bulk(where.bucket, 0)
        return bytes(obstore.get_range(bucket, where.key, start=start, length=length * reading))[:length]

    before = None
    for reading in range(1, _READINGS + 1):
        came = persist(partial(fetch, reading), f"read {where}", clients)
        if came == before:
            return came
        before = came
    raise StageFailure(
        FailureClass.STORAGE,
        "ObjectCorrupt",
        f"{where} comes with other bytes each time it is read.",
        "Check the store's disks and the network.",
    )


def verified_range(
    clients: Clients,
    where: S3Uri,
    start: int,
    length: int,
    expected: Digest,
    on_bytes: OnBytes = ignore_bytes,
) -> bytes:
    """Reads a range of an object whose SHA-256 is known.

    Args:
        clients: clients of the store.
        where: URI of the object.
        start: offset of the first byte.
        length: number of bytes.
        expected: SHA-256 of the range.
        on_bytes: receives the number of bytes after each reading.

    Raises:
        StageFailure: ObjectCorrupt if several readings have another SHA-256; a failure of the store.
    """

    def fetch() -> bytes:
        bucket = clients.bulk(where.bucket, 0)
        return bytes(obstore.get_range(bucket, where.key, start=start, length=length))

    for _ in range(_READINGS):
        came = persist(fetch, f"read {where}", clients)
        on_bytes(len(came))
        if "sha256:" + hashlib.sha256(came).hexdigest() == expected:
            return came
        log.warning("%s: the bytes from %d have another SHA-256 than %s", where, start, expected)
    raise StageFailure(
        FailureClass.STORAGE,
        "ObjectCorrupt",
        f"{where} comes with other bytes than it should: the bytes from {start} have another SHA-256.",
        "Check the store's disks and the network.",
    )


def _check_size(entry: ObjectInfo, limit: int | None) -> None:
    if limit is not None and entry.size > limit:
        raise StageFailure(
            FailureClass.USER_CONFIG,
            "ObjectTooLarge",
            f"{entry.uri} has {entry.size:,} bytes, at most {limit:,} are expected there.",
            "Check that the uri names the right object.",
        )


def _read_once(
    clients: Clients,
    where: S3Uri,
    entry: ObjectInfo,
    states: Stated,
    sink: BinaryIO,
    reading: int,
    on_bytes: OnBytes,
) -> tuple[Transfer, Verdict]:
    sink.seek(0)
    sink.truncate()
    digest = hashlib.sha256()
    parts = () if states.sha256 else _parts(clients, where, entry.size, states.parts)
    etag = EtagDigest(parts)
    # Each reading uses another range size, so that the same fault does not corrupt both in the same way.
    step = max(1, min(RANGE_BYTES, entry.size) // reading)
    # MD5 is the slowest step. hashlib releases the GIL, so a second thread computes MD5 in parallel.
    with ThreadPoolExecutor(1) as beside:
        busy: Future[None] | None = None
        for piece in _ranges(clients, where, entry, step, on_bytes):
            if busy:
                busy.result()
            busy = beside.submit(etag.update, piece)
            sink.write(piece)
            digest.update(piece)
    came = Transfer(entry.size, "sha256:" + digest.hexdigest())
    return came, judge(states, came.digest, etag if parts else None)


def _parts(clients: Clients, where: S3Uri, size: int, count: int) -> Sequence[int]:
    """The sizes in bytes of the parts of a multipart upload; empty if the store does not provide them."""
    if count <= 1:
        return (size,) * count
    try:
        first = _size_of(clients, where, 1)
        if even := even_parts(first, size, count):
            return even
        others = range(2, count + 1 if count <= _MAX_ASKED_PARTS else 0)
        sizes = [first, *(_size_of(clients, where, number) for number in others)]
    except StageFailure as failure:
        if failure.reason == "StorageRefused":
            return ()
        raise
    return sizes if sum(sizes) == size else ()


def _size_of(clients: Clients, where: S3Uri, part: int) -> int:
    found = look(clients, where, part)
    return found[0].size if found else 0


def _ranges(
    clients: Clients, where: S3Uri, entry: ObjectInfo, step: int, on_bytes: OnBytes
) -> Iterator[memoryview]:
    """Reads the content of one version of an object in order, in ranges of `step` bytes, with read-ahead."""
    bucket = clients.bulk(where.bucket, 0)
    # Last-Modified is truncated to seconds, but the store compares its exact time.
    same: Any = (
        {"if_match": entry.etag}
        if entry.etag
        else {"if_unmodified_since": entry.modified + timedelta(seconds=1)}
    )

    def fetch(start: int, end: int) -> memoryview:
        options: Any = {**same, "range": (start, end)}
        content = bytearray()
        for piece in obstore.get(bucket, where.key, options=options).stream(min_chunk_size=_REPORT_BYTES):
            content += piece
            on_bytes(len(piece))
        return memoryview(content)

    starts = deque(range(0, entry.size, step))
    with ThreadPoolExecutor(PARALLEL) as pool:
        ahead: deque[Future[memoryview]] = deque()
        try:
            while starts or ahead:
                while starts and len(ahead) < PARALLEL:
                    start = starts.popleft()
                    part = partial(fetch, start, min(start + step, entry.size))
                    ahead.append(pool.submit(persist, part, f"read {where}", clients))
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()
