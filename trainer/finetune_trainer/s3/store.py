"""IO: the client of one S3 store.

Every method raises StageFailure (see storefaults.py); reasons in storefaults.RETRYABLE may pass.
"""

import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path

from finetune_trainer.config import StoreAccess, StoreRole
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import deletions, downloads, uploads
from finetune_trainer.s3.clients import connect
from finetune_trainer.s3.credentials import Credentials, read_ca_bundle, read_credentials
from finetune_trainer.s3.deletions import Cleared
from finetune_trainer.s3.digests import OnBytes, ignore_bytes
from finetune_trainer.s3.objects import ObjectInfo, Transfer, info, look
from finetune_trainer.s3.retries import persist
from finetune_trainer.s3.uris import S3Uri, UriError, parse

log = logging.getLogger(__name__)

MAX_READ_BYTES = 64 * 1024 * 1024
"""Default limit of `read`, which holds the object in memory."""


class Store:
    """One S3 store with the credentials of one role. `open_store` creates it."""

    def __init__(
        self, access: StoreAccess, credentials: Callable[[], Credentials], ca_bundle: str | None
    ) -> None:
        self._clients = connect(access, credentials, ca_bundle)
        self.warnings = credentials().warnings

    def head(self, uri: str) -> ObjectInfo | None:
        """Size and ETag of one object; None if the object does not exist."""
        found = look(self._clients, _parse(uri))
        return found[0] if found else None

    def list(self, prefix: str, most: int | None = None) -> list[ObjectInfo]:
        """Lists the objects whose keys start with a prefix, in the order of keys.

        Args:
            prefix: URI.
            most: maximum number of objects; None for all objects.
        """
        where = _parse(prefix)

        def walk() -> list[ObjectInfo]:
            found = self._clients.control.list_objects(where.bucket, prefix=where.key, recursive=True)
            return [info(where.bucket, entry) for entry in islice(found, most)]

        return persist(walk, f"list {prefix}", self._clients)

    def read(self, uri: str, limit: int = MAX_READ_BYTES) -> bytes:
        """Reads a small object into memory, and verifies the checksum in the headers of the store.

        Args:
            uri: URI of the object.
            limit: maximum size in bytes; a larger object is refused (ObjectTooLarge) before it is read.
        """
        content = io.BytesIO()
        downloads.read_into(self._clients, _parse(uri), content, limit=limit)
        return content.getvalue()

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """Reads `length` bytes from the offset `start`; fewer bytes at the end of the object."""
        return downloads.agreed_range(self._clients, _parse(uri), start, length)

    def read_verified(
        self, uri: str, start: int, length: int, expected: Digest, on_bytes: OnBytes = ignore_bytes
    ) -> bytes:
        """Reads `length` bytes from the offset `start`, whose SHA-256 must be `expected`.

        Args:
            uri: URI of the object.
            start: offset of the first byte.
            length: number of bytes.
            expected: SHA-256 of these bytes.
            on_bytes: receives the number of bytes after each reading.

        Raises:
            StageFailure: ObjectCorrupt if several readings have another SHA-256.
        """
        return downloads.verified_range(self._clients, _parse(uri), start, length, expected, on_bytes)

    def download(
        self,
        uri: str,
        path: Path,
        expected: Digest | None = None,
        on_bytes: OnBytes = ignore_bytes,
    ) -> Transfer:
        """Downloads an object into a file. The file exists only after a complete and verified download.

        Args:
            uri: URI of the object.
            path: path of the file.
            expected: SHA-256 of the content; None for the checksum in the headers of the store.
            on_bytes: receives the number of bytes during the transfer.

        Raises:
            StageFailure: ObjectCorrupt if the content does not match its checksum in several readings.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        try:
            with part.open("wb") as file:
                transfer = downloads.read_into(
                    self._clients, _parse(uri), file, expected=expected, on_bytes=on_bytes
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return transfer

    def write(self, uri: str, data: bytes) -> Transfer:
        """Writes a small object in one request, atomically."""
        return uploads.put(self._clients, _parse(uri), data)

    def upload(self, path: Path, uri: str, on_bytes: OnBytes = ignore_bytes) -> Transfer:
        """Uploads a file atomically, in parts if the file is large.

        Args:
            path: path of the file.
            uri: URI of the object.
            on_bytes: receives the number of bytes of each part.
        """
        return uploads.put_file(self._clients, _parse(uri), path, on_bytes)

    def upload_pieces(self, uri: str, size: int, pieces: Callable[[], Iterator[uploads.Piece]]) -> None:
        """Uploads an object from memory in parts, atomically.

        Args:
            uri: URI of the object.
            size: size of the object in bytes.
            pieces: returns the content in pieces; called again if the store loses the upload.
        """
        uploads.put_pieces(self._clients, _parse(uri), size, pieces)

    def delete(self, uris: Iterable[str]) -> int:
        """Deletes objects; an object that does not exist counts as deleted. Returns the number of URIs."""
        keys: dict[str, list[str]] = {}
        for uri in uris:
            where = _parse_listed(uri)
            keys.setdefault(where.bucket, []).append(where.key)
        for bucket, names in keys.items():
            deletions.delete(self._clients, bucket, names)
        return sum(len(names) for names in keys.values())

    def clear(self, prefix: str, on_progress: Callable[[float], None] = lambda _: None) -> Cleared:
        """Deletes all objects whose keys start with a prefix, and their versions if the credentials permit.

        Args:
            prefix: URI.
            on_progress: receives the completed part, from 0 to 1.
        """
        return deletions.clear(self._clients, _parse(prefix), on_progress)

    def abort_uploads(self, prefix: str) -> int:
        """Aborts all multipart uploads below a prefix. Returns their number."""
        return uploads.abort_unfinished(self._clients, _parse(prefix))


def open_store(access: StoreAccess, role: StoreRole, paths: Paths) -> Store:
    """Reads the credentials and the CA bundle of a role, and creates the client without sending a request.

    Raises:
        StageFailure: CredentialsMissing, CaBundleInvalid, EndpointInvalid.
    """
    store = Store(
        access,
        lambda: read_credentials(paths, role),
        read_ca_bundle(paths, role) if access.ca_bundle else None,
    )
    for warning in store.warnings:
        log.warning(warning)
    return store


def _parse(uri: str) -> S3Uri:
    try:
        return parse(uri)
    except UriError as error:
        raise StageFailure(FailureClass.USER_CONFIG, "UriInvalid", f"{error}.") from None


def _parse_listed(uri: str) -> S3Uri:
    """Parses a URI from `list`, whose key may have a form that `parse` refuses, so that it can be deleted."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return S3Uri(bucket, key)
