"""IO: writes objects, at once or in parts; ends uploads that nobody will end."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import obstore
from minio.error import S3Error

from finetune_trainer.s3.clients import REQUEST_SECONDS, Clients
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.multipart import Upload, abort_upload, list_uploads
from finetune_trainer.s3.objects import Transfer
from finetune_trainer.s3.retries import TRIES, WINDOW_SECONDS, persist
from finetune_trainer.s3.uris import S3Uri

PART_BYTES = 16 * 1024 * 1024
"""A file that is larger is put in parts of this size."""
UPLOAD_SILENCE_SECONDS = REQUEST_SECONDS + WINDOW_SECONDS
"""The longest time between two reports of an upload whose bytes move: one request, and its retries."""
_PARALLEL = 4
_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown; charset=utf-8",
}
"""Content types of what people open in a browser; without one it would be offered for download."""
_WHOLE_UPLOADS = 3
"""How often all parts are put again, when the upload itself was lost; a part alone is repeated within it."""


def put(clients: Clients, where: S3Uri, data: bytes) -> Transfer:
    """Puts an object in one request. Its signature holds the SHA-256 of the bytes, which the store checks."""
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
    """Puts a file, in parts if the file is large.

    Args:
        clients: of the store.
        where: the object.
        path: of the file.
        on_bytes: is told of each part as soon as the client takes the next part. The client holds four parts,
            so the last reports come before their parts have arrived.
    """
    if path.stat().st_size <= PART_BYTES:
        sent = put(clients, where, path.read_bytes())
        on_bytes(sent.size)
        return sent

    def put_parts() -> Transfer:
        digest, size = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal size
            with path.open("rb") as file:
                while piece := file.read(PART_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    yield piece
                    on_bytes(len(piece))

        obstore.put(
            clients.bulk(where.bucket, TRIES - 1),
            where.key,
            pieces(),
            attributes=_attributes(where),
            chunk_size=PART_BYTES,
            max_concurrency=_PARALLEL,
        )
        return Transfer(size, "sha256:" + digest.hexdigest())

    return persist(put_parts, f"write {where}", clients, _WHOLE_UPLOADS)


def _attributes(where: S3Uri) -> dict[str, str]:
    known = _TYPES.get(where.key.rpartition(".")[2])
    return {"Content-Type": known} if known else {}


def abort_unfinished(clients: Clients, below: S3Uri) -> int:
    """Aborts every upload in parts below a prefix that was not completed. Returns how many."""
    aborted: set[Upload] = set()

    def abort() -> int:
        # Listed anew until nothing new is found: a store may leave some out between two pages.
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
