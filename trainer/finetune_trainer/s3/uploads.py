"""IO: writes objects in one request or in parts, and aborts unfinished uploads."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import obstore
from minio.error import S3Error

from finetune_trainer.s3.clients import Clients
from finetune_trainer.s3.objects import Transfer
from finetune_trainer.s3.retries import TRIES, persist
from finetune_trainer.s3.uris import S3Uri

PART_BYTES = 16 * 1024 * 1024
"""Size of a part in bytes; a larger file is uploaded in parts."""
_PARALLEL = 4
_TYPES = {
    "html": "text/html; charset=utf-8",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "md": "text/markdown; charset=utf-8",
}
"""Content types of files that users open in a browser; a browser downloads a file without a content type."""
_WHOLE_UPLOADS = 3
"""How often all parts are put again, when the upload itself was lost; a part alone is repeated within it."""


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


def put_file(clients: Clients, where: S3Uri, path: Path) -> Transfer:
    """Puts a file, in parts if it is large."""
    if path.stat().st_size <= PART_BYTES:
        return put(clients, where, path.read_bytes())

    def put_parts() -> Transfer:
        digest, size = hashlib.sha256(), 0

        def pieces() -> Iterator[bytes]:
            nonlocal size
            with path.open("rb") as file:
                while piece := file.read(PART_BYTES):
                    digest.update(piece)
                    size += len(piece)
                    yield piece

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
    aborted: set[tuple[str, str]] = set()

    def abort() -> int:
        # Listed anew until nothing new is found: a store may leave some out between two pages.
        while found := _below(clients, below) - aborted:
            for key, upload in found:
                with _forgiving("NoSuchUpload"):
                    clients.control._abort_multipart_upload(below.bucket, key, upload)  # noqa: SLF001
                aborted.add((key, upload))
        return len(aborted)

    return persist(abort, f"abort uploads below {below}", clients)


def _below(clients: Clients, prefix: S3Uri) -> set[tuple[str, str]]:
    # Asked for a folder, MinIO lists no uploads: it takes the prefix for one object's name. Asked for the
    # whole bucket, it lists those it remembers; those a restart made it forget expire in a day.
    found = {*_unfinished(clients, prefix), *_unfinished(clients, S3Uri(prefix.bucket, ""))}
    return {(key, upload) for key, upload in found if key.startswith(prefix.key)}


def _unfinished(clients: Clients, below: S3Uri) -> Iterator[tuple[str, str]]:
    """Key and id of each unfinished upload. minio keeps this call private; S3 itself does not."""
    key_marker = upload_marker = None
    while True:
        page = clients.control._list_multipart_uploads(  # noqa: SLF001
            below.bucket, prefix=below.key, key_marker=key_marker, upload_id_marker=upload_marker
        )
        for upload in page.uploads:
            yield upload.object_name, upload.upload_id or ""
        if not page.is_truncated:
            return
        key_marker, upload_marker = page.next_key_marker, page.next_upload_id_marker


@contextlib.contextmanager
def _forgiving(code: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code != code:
            raise
