"""IO: one S3 store. obstore moves bytes; minio asks, lists and deletes.

Every error is a StageFailure (storefaults.py says which); reasons in storefaults.RETRYABLE may mend.
"""

import contextlib
import hashlib
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import obstore
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from obstore.store import S3Store

from finetune_trainer.config import StoreAccess, StoreRole
from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.places import Places
from finetune_trainer.s3.clients import RETRY_SECONDS, bulk_client, check_endpoint, control_client
from finetune_trainer.s3.credentials import Credentials, read_ca_bundle, read_credentials
from finetune_trainer.s3.storefaults import RETRYABLE, classify
from finetune_trainer.s3.uris import S3Uri, UriError, parse

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

RANGE_BYTES = 16 * 1024 * 1024
"""Part of a download or upload that travels alone; four travel at once."""
PARALLEL = 4
MAX_READ_BYTES = 64 * 1024 * 1024
"""What `read` takes into memory at most."""
_TRIES = 5


@dataclass(frozen=True)
class ObjectInfo:
    """One object as the store lists it."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    modified: datetime


@dataclass(frozen=True)
class Transfer:
    """What went over the wire, digested on the way."""

    size: int
    """Bytes."""
    digest: Digest
    """SHA-256 of all bytes."""


class Store:
    """One S3 store with one set of credentials. Made by `open_store`."""

    def __init__(
        self, access: StoreAccess, credentials: Callable[[], Credentials], ca_bundle: str | None
    ) -> None:
        self.endpoint = access.endpoint
        self.warnings = credentials().warnings
        self._access = access
        self._ca_bundle = ca_bundle
        self._credentials = credentials
        self._buckets: dict[tuple[str, int], S3Store] = {}
        self._minio = control_client(access, credentials, ca_bundle)

    def head(self, uri: str) -> ObjectInfo | None:
        """Size and ETag of one object; None if it is not there."""
        where = _parse(uri)
        try:
            found = self._try(lambda: self._minio.stat_object(where.bucket, where.key), f"look at {uri}")
        except StageFailure as failure:
            if failure.reason == "ObjectMissing":
                return None
            raise self._explained(where, failure) from None
        return ObjectInfo(uri, found.size or 0, _quoted(found.etag), _time(found.last_modified))

    def list(self, prefix: str) -> list[ObjectInfo]:
        """Every object whose key starts with the prefix, in the order of keys."""
        where = _parse(prefix)

        def walk() -> list[ObjectInfo]:
            return [
                ObjectInfo(
                    f"s3://{where.bucket}/{entry.object_name}",
                    entry.size or 0,
                    _quoted(entry.etag),
                    _time(entry.last_modified),
                )
                for entry in self._minio.list_objects(where.bucket, prefix=where.key, recursive=True)
            ]

        return self._try(walk, f"list {prefix}")

    def read(self, uri: str, limit: int = MAX_READ_BYTES) -> bytes:
        """A whole small object.

        Args:
            uri: of the object.
            limit: bytes; a larger object is refused (ObjectTooLarge) before it is read.
        """
        return b"".join(self._ranges(uri, limit=limit))

    def read_range(self, uri: str, start: int, length: int) -> bytes:
        """`length` bytes from `start`; fewer at the end of the object."""
        where = _parse(uri)
        return self._try(
            lambda: bytes(obstore.get_range(self._bucket(where), where.key, start=start, length=length)),
            f"read {uri}",
        )

    def stream(self, uri: str) -> Iterator[bytes]:
        """The object in parts, in order; ranges are fetched ahead, and all are of one version (ETag)."""
        return self._ranges(uri)

    def download(self, uri: str, path: Path) -> Transfer:
        """Fetches an object; the file appears under its name only when it is whole."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.{os.getpid()}.part")
        digest, size = hashlib.sha256(), 0
        try:
            with part.open("wb") as file:
                for piece in self._ranges(uri):
                    file.write(piece)
                    digest.update(piece)
                    size += len(piece)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        return Transfer(size, "sha256:" + digest.hexdigest())

    def write(self, uri: str, data: bytes) -> Transfer:
        """Puts a small object in one request; readers see all of it or nothing."""
        where = _parse(uri)
        self._try(
            lambda: obstore.put(self._bucket(where), where.key, data, use_multipart=False), f"write {uri}"
        )
        return Transfer(len(data), "sha256:" + hashlib.sha256(data).hexdigest())

    def upload(self, path: Path, uri: str) -> Transfer:
        """Puts a file, in parts if it is large; readers see all of it or nothing."""
        where = _parse(uri)
        if path.stat().st_size <= RANGE_BYTES:
            return self.write(uri, path.read_bytes())
        digest = hashlib.sha256()
        with path.open("rb") as file:
            self._try(
                lambda: obstore.put(
                    self._bucket(where, retries=_TRIES - 1),
                    where.key,
                    _digested(file, digest),
                    chunk_size=RANGE_BYTES,
                    max_concurrency=PARALLEL,
                ),
                f"write {uri}",
                tries=1,
            )
            return Transfer(file.tell(), "sha256:" + digest.hexdigest())

    def delete(self, uris: Iterable[str]) -> int:
        """Deletes objects; one that is not there counts as deleted. Returns how many were named."""
        keys: dict[str, list[str]] = {}
        for uri in uris:
            where = _parse_listed(uri)
            keys.setdefault(where.bucket, []).append(where.key)
        for bucket, names in keys.items():
            self._try(partial(self._delete_keys, bucket, names), f"delete objects in s3://{bucket}")
        return sum(len(names) for names in keys.values())

    def _delete_keys(self, bucket: str, names: Sequence[str]) -> None:
        for error in self._minio.remove_objects(bucket, [DeleteObject(name) for name in names]):
            if error.code not in {"NoSuchKey", "NoSuchVersion"}:
                raise StageFailure(
                    FailureClass.STORAGE,
                    "StorageDenied" if error.code == "AccessDenied" else "StorageError",
                    f"{self.endpoint} refuses to delete s3://{bucket}/{error.name} ({error.code}).",
                    "Give the output store's credentials s3:DeleteObject.",
                )

    def abort_uploads(self, prefix: str) -> int:
        """Aborts every multipart upload below a prefix. Returns how many."""
        where = _parse(prefix)

        def abort() -> int:
            # Asked for a folder, MinIO lists no uploads: it takes the prefix for one object's name. Asked for
            # the whole bucket, it lists those it remembers; those a restart made it forget expire in a day.
            found = {*self._uploads(where.bucket, where.key), *self._uploads(where.bucket, "")}
            below = [(key, upload) for key, upload in found if key.startswith(where.key)]
            for key, upload in below:
                with _forgiving("NoSuchUpload"):
                    self._minio._abort_multipart_upload(where.bucket, key, upload)  # noqa: SLF001
            return len(below)

        return self._try(abort, f"abort uploads below {prefix}")

    def _uploads(self, bucket: str, prefix: str) -> Iterator[tuple[str, str]]:
        """Key and id of each unfinished upload. minio keeps this call private; S3 itself does not."""
        key_marker = upload_marker = None
        while True:
            page = self._minio._list_multipart_uploads(  # noqa: SLF001
                bucket, prefix=prefix, key_marker=key_marker, upload_id_marker=upload_marker
            )
            for upload in page.uploads:
                yield upload.object_name, upload.upload_id or ""
            if not page.is_truncated:
                return
            key_marker, upload_marker = page.next_key_marker, page.next_upload_id_marker

    def _ranges(self, uri: str, limit: int | None = None) -> Iterator[bytes]:
        where = _parse(uri)
        found = self.head(uri)
        if found is None:
            raise self._missing(where)
        if limit is not None and found.size > limit:
            raise StageFailure(
                FailureClass.USER_CONFIG,
                "ObjectTooLarge",
                f"{uri} has {found.size:,} bytes, at most {limit:,} are expected there.",
                "Check that the uri names the right object.",
            )
        bucket = self._bucket(where)

        def fetch(start: int, end: int) -> bytes:
            options: Any = {"if_match": found.etag, "range": (start, end)}
            return bytes(obstore.get(bucket, where.key, options=options).bytes())

        starts = deque(range(0, found.size, RANGE_BYTES))
        with ThreadPoolExecutor(PARALLEL) as pool:
            ahead: deque[Future[bytes]] = deque()
            try:
                while starts or ahead:
                    while starts and len(ahead) < PARALLEL:
                        start = starts.popleft()
                        end = min(start + RANGE_BYTES, found.size)
                        ahead.append(pool.submit(self._try, partial(fetch, start, end), f"read {uri}"))
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _bucket(self, where: S3Uri, retries: int = 0) -> S3Store:
        key = where.bucket, retries
        if key not in self._buckets:
            self._buckets[key] = bulk_client(
                self._access, where.bucket, self._credentials, self._ca_bundle, retries
            )
        return self._buckets[key]

    def _try(self, action: Callable[[], Answer], doing: str, tries: int = _TRIES) -> Answer:
        """Acts, again with growing random pauses while the reason may mend; 5 tries within 30 s."""
        deadline = time.monotonic() + RETRY_SECONDS
        for attempt in range(1, tries + 1):
            try:
                return action()
            except Exception as error:
                failure = classify(error, doing=doing, endpoint=self.endpoint)
                pause = random.uniform(0.5, 1) * 0.25 * 2**attempt  # noqa: S311 - jitter, no secret
                late = time.monotonic() + pause > deadline
                if failure.reason not in RETRYABLE or attempt == tries or late:
                    raise failure from error
                log.warning("%s; try %d of %d in %.1f s", failure.message, attempt + 1, tries, pause)
                time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _missing(self, where: S3Uri) -> StageFailure:
        return self._explained(
            where,
            StageFailure(
                FailureClass.USER_CONFIG,
                "ObjectMissing",
                f"{where} does not exist at {self.endpoint}.",
                "Upload it, or mend the uri.",
            ),
        )

    def _explained(self, where: S3Uri, failure: StageFailure) -> StageFailure:
        """The answer to HEAD has no body; a listing tells a missing bucket or a wrong key."""
        if failure.reason not in {"ObjectMissing", "StorageDenied"}:
            return failure
        try:
            next(iter(self._minio.list_objects(where.bucket, prefix=where.key)), None)
        except Exception as error:  # noqa: BLE001 - only to word the failure better
            better = classify(error, doing=f"look at {where}", endpoint=self.endpoint)
            return better if better.reason in {"BucketMissing", "StorageDenied"} else failure
        return failure


def open_store(access: StoreAccess, role: StoreRole, places: Places) -> Store:
    """Reads credentials and authorities of a role; nothing is sent yet.

    Raises:
        StageFailure: CredentialsMissing, CaBundleInvalid, EndpointInvalid.
    """
    check_endpoint(access.endpoint)
    store = Store(
        access,
        lambda: read_credentials(places, role),
        read_ca_bundle(places, role) if access.ca_bundle else None,
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


def _digested(file: BinaryIO, digest: Any) -> Iterator[bytes]:
    file.seek(0)
    while piece := file.read(RANGE_BYTES):
        digest.update(piece)
        yield piece


@contextlib.contextmanager
def _forgiving(code: str) -> Iterator[None]:
    try:
        yield
    except S3Error as error:
        if error.code != code:
            raise


def _quoted(etag: str | None) -> str:
    """ETags travel in quotes; minio strips them."""
    return f'"{(etag or "").strip(chr(34))}"'


def _time(moment: datetime | None) -> datetime:
    return moment or datetime.fromtimestamp(0, UTC)
