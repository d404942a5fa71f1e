"""IO: one S3 store.

Every error is a StageFailure (storefaults.py says which); reasons in storefaults.RETRYABLE may mend.
"""

import io
import logging
import os
from collections.abc import Callable, Iterable
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
"""What `read` takes into memory at most."""


class Store:
    """One S3 store with one set of credentials. Made by `open_store`."""

    def __init__(
        self, access: StoreAccess, credentials: Callable[[], Credentials], ca_bundle: str | None
    ) -> None:
        self._clients = connect(access, credentials, ca_bundle)
        self.warnings = credentials().warnings

    def head(self, uri: str) -> ObjectInfo | None:
        """Size and ETag of one object; None if it is not there."""
        found = look(self._clients, _parse(uri))
        return found[0] if found else None

    def list(self, prefix: str, most: int | None = None) -> list[ObjectInfo]:
        """Every object whose key starts with the prefix, or the first so many, in the order of keys."""
        where = _parse(prefix)

        def walk() -> list[ObjectInfo]:
            found = self._clients.control.list_objects(where.bucket, prefix=where.key, recursive=True)
            return [info(where.bucket, entry) for entry in islice(found, most)]

        return persist(walk, f"list {prefix}", self._clients)

    def read(self, uri: str, limit: int = MAX_READ_BYTES) -> bytes:
        """A whole small object, compared with the checksum that the store states.

        Args:
            uri: of the object.
            limit: bytes; a larger object is refused (ObjectTooLarge) before it is read.
        """
        content = io.BytesIO()
        downloads.read_into(self._clients, _parse(uri), content, limit=limit)
        return content.getvalue()

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer at the end of the object."""
        return downloads.agreed_range(self._clients, _parse(uri), start, length)

    def download(
        self,
        uri: str,
        path: Path,
        expected: Digest | None = None,
        on_bytes: OnBytes = ignore_bytes,
    ) -> Transfer:
        """Fetches an object; the file appears under its name only when it is whole and right.

        Args:
            uri: of the object.
            path: of the file.
            expected: what its bytes must be; without it, what the store states of them.
            on_bytes: is told of the bytes as they come.

        Raises:
            StageFailure: ObjectCorrupt when it was read again and was still not what it must be.
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
        """Puts a small object in one request; readers see all of it or nothing."""
        return uploads.put(self._clients, _parse(uri), data)

    def upload(self, path: Path, uri: str, on_bytes: OnBytes = ignore_bytes) -> Transfer:
        """Puts a file, in parts if the file is large; readers see the whole file or nothing.

        Args:
            path: of the file.
            uri: of the object.
            on_bytes: is told of the bytes of each part.
        """
        return uploads.put_file(self._clients, _parse(uri), path, on_bytes)

    def delete(self, uris: Iterable[str]) -> int:
        """Deletes objects; one that is not there counts as deleted. Returns how many were named."""
        keys: dict[str, list[str]] = {}
        for uri in uris:
            where = _parse_listed(uri)
            keys.setdefault(where.bucket, []).append(where.key)
        for bucket, names in keys.items():
            deletions.delete(self._clients, bucket, names)
        return sum(len(names) for names in keys.values())

    def clear(self, prefix: str, on_progress: Callable[[float], None] = lambda _: None) -> Cleared:
        """Deletes every object whose key starts with the prefix, and its versions where the keys may.

        Args:
            prefix: URI.
            on_progress: told how much is done, from 0 to 1.
        """
        return deletions.clear(self._clients, _parse(prefix), on_progress)

    def abort_uploads(self, prefix: str) -> int:
        """Aborts every multipart upload below a prefix. Returns how many."""
        return uploads.abort_unfinished(self._clients, _parse(prefix))


def open_store(access: StoreAccess, role: StoreRole, paths: Paths) -> Store:
    """Reads credentials and authorities of a role; nothing is sent yet.

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
    """A URI that `list` gave: its key may be one that people may not write, and must still be deletable."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    return S3Uri(bucket, key)
