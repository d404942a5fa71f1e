"""IO: writes objects in one request or in parts, and aborts unfinished uploads."""

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import obstore
from minio.error import S3Error

from finetune_trainer.s3.clients import REQUEST_SECONDS, Clients
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.multipart import Upload, abort_upload, list_uploads
from finetune_trainer.s3.objects import Transfer
from finetune_trainer.s3.retries import TRIES, WINDOW_SECONDS, persist
from finetune_trainer.s3.uris import S3Uri

Piece = bytes | memoryview
PART_BYTES = 16 * 1024 * 1024
"""Least size of a part in bytes; a larger file is uploaded in parts."""
_MOST_PARTS = 9000
"""Maximum number of parts of an upload; S3 allows 10,000."""
_MIB = 1024 * 1024
UPLOAD_SILENCE_SECONDS = REQUEST_SECONDS + WINDOW_SECONDS
"""Maximum time in seconds between two reports of an upload that makes progress: a request with retries."""
_PARALLEL = 4
_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown; charset=utf-8",
}
"""Content types of files that users open in a browser; a browser downloads a file without a content type."""
_WHOLE_UPLOADS = 3
"""Maximum number of uploads of all parts, if the store loses an upload; single parts have own retries."""


def put(clients: Clients, where: S3Uri, data: bytes) -> Transfer:
    """Writes an object in one request; the store verifies the SHA-256 of the content in the signature."""
    persist(
        lambda: obstore.put(
            clients.bulk(where.bucket, 0),
            where.key,
            data,
            attributes=_attributes(where),
            use_multipart=False,
        ),
        f"write {where}",
        clients,
    )
    return Transfer(len(data), "sha256:" + hashlib.sha256(data).hexdigest())


def put_file(clients: Clients, where: S3Uri, path: Path, on_bytes: OnBytes = ignore_bytes) -> Transfer:
    """Uploads a file, in parts if the file is larger than PART_BYTES.

    Args:
        clients: clients of the store.
        where: URI of the object.
        path: path of the file.
        on_bytes: receives the size of each part when the client takes the next part. The client buffers four
            parts, so the last calls come before their parts have arrived.
    """
    if path.stat().st_size <= PART_BYTES:
        sent = put(clients, where, path.read_bytes())
        on_bytes(sent.size)
        return sent

    digest, size = hashlib.sha256(), 0

    def pieces() -> Iterator[bytes]:
        nonlocal digest, size
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while piece := file.read(PART_BYTES):
                digest.update(piece)
                size += len(piece)
                yield piece
                on_bytes(len(piece))

    put_pieces(clients, where, path.stat().st_size, pieces)
    return Transfer(size, "sha256:" + digest.hexdigest())


def part_bytes(size: int) -> int:
    """Size of a part in bytes, so that an object has at most _MOST_PARTS parts.

    Args:
        size: size of the object in bytes.
    """
    return max(PART_BYTES, -(-size // (_MOST_PARTS * _MIB)) * _MIB)


def put_pieces(clients: Clients, where: S3Uri, size: int, pieces: Callable[[], Iterator[Piece]]) -> None:
    """Uploads an object in parts, atomically.

    Args:
        clients: clients of the store.
        where: URI of the object.
        size: size of the object in bytes, from which the size of a part follows.
        pieces: returns the content in pieces; called again if the store loses the upload.
    """

    def put_parts() -> None:
        obstore.put(
            clients.bulk(where.bucket, TRIES - 1),
            where.key,
            pieces(),
            attributes=_attributes(where),
            chunk_size=part_bytes(size),
            max_concurrency=_PARALLEL,
        )

    persist(put_parts, f"write {where}", clients, _WHOLE_UPLOADS)


def _attributes(where: S3Uri) -> dict[str, str]:
    known = _TYPES.get(where.key.rpartition(".")[2])
    return {"Content-Type": known} if known else {}


def abort_unfinished(clients: Clients, below: S3Uri) -> int:
    """Aborts all unfinished multipart uploads below a prefix. Returns their number."""
    aborted: set[Upload] = set()

    def abort() -> int:
        # The listing is repeated until it has no new upload, because a store may omit uploads between pages.
        while found := _below(clients, below) - aborted:
            for upload in found:
                with _forgiving("NoSuchUpload"):
                    abort_upload(clients, below.bucket, upload)
                aborted.add(upload)
        return len(aborted)

    return persist(abort, f"abort uploads below {below}", clients)


def _below(clients: Clients, prefix: S3Uri) -> set[Upload]:
    # Asked for a folder, MinIO lists no uploads: it takes the prefix for one object's name. Asked for the
    # whole bucket, it lists those it remembers; those a restart made it forget expire in a day.
    found = {*_unfinished(clients, prefix), *_unfinished(clients, S3Uri(prefix.bucket, ""))}
    return {upload for upload in found if upload.key.startswith(prefix.key)}


def _unfinished(clients: Clients, below: S3Uri) -> Iterator[Upload]:
    """The unfinished uploads of the keys that start with a prefix, page after page."""
    after: str | None = ""
    while after is not None:
        page = list_uploads(clients, below.bucket, below.key, after)
        yield from page.uploads
        after = page.next_key


@contextlib.contextmanager
def _forgiving(code: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code != code:
            raise
