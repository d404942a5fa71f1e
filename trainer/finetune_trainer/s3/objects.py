"""IO: reads the metadata of one object, and finds the cause if the store has no such object."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from minio.datatypes import Object

from finetune_trainer.contract import Digest, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3 import checksums
from finetune_trainer.s3.clients import Clients
from finetune_trainer.s3.retries import persist, token_of
from finetune_trainer.s3.storefaults import classify
from finetune_trainer.s3.uris import S3Uri


@dataclass(frozen=True)
class ObjectInfo:
    """The metadata of one object."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    """ETag in quotes; empty if the store has none, for example for a file put directly on its disk."""
    modified: datetime
    """Time of the last change."""


@dataclass(frozen=True)
class Transfer:
    """The size and digest of a transferred object, computed during the transfer."""

    size: int
    """Bytes."""
    digest: Digest
    """SHA-256 of all bytes."""


def info(bucket: str, entry: Object) -> ObjectInfo:
    """Converts the metadata from minio; minio strips the quotes of ETags, and this function adds them."""
    etag = (entry.etag or "").strip('"')
    return ObjectInfo(
        f"s3://{bucket}/{entry.object_name}",
        entry.size or 0,
        f'"{etag}"' if etag else "",
        entry.last_modified or datetime.fromtimestamp(0, UTC),
    )


def look(
    clients: Clients, where: S3Uri, part: int | None = None
) -> tuple[ObjectInfo, Mapping[str, str]] | None:
    """Requests the metadata of an object (HEAD).

    Args:
        clients: clients of the store.
        where: URI of the object.
        part: number of a part of the multipart upload, from 1; the size is then the size of this part.

    Returns:
        The metadata, and all headers of the answer by their names in lower case; None if the object does not
        exist.

    Raises:
        StageFailure: a failure of the store.
    """

    def ask() -> Object:
        return clients.control.stat_object(
            where.bucket,
            where.key,
            extra_headers=dict(checksums.ASK),
            extra_query_params={"partNumber": str(part)} if part else {},
        )

    try:
        found = persist(ask, f"look at {where}", clients)
    except StageFailure as failure:
        if failure.reason == "ObjectMissing":
            return None
        raise _explained(clients, where, failure) from None
    return info(where.bucket, found), {name.lower(): value for name, value in (found.metadata or {}).items()}


def missing(clients: Clients, where: S3Uri) -> StageFailure:
    """The failure for a required object that does not exist: ObjectMissing, or a more precise cause.

    Args:
        clients: clients of the store.
        where: URI of the object.
    """
    failure = StageFailure(
        FailureClass.USER_CONFIG,
        "ObjectMissing",
        f"{where} does not exist at {clients.endpoint}.",
        "Upload the object, or correct the URI.",
    )
    return _explained(clients, where, failure)


def _explained(clients: Clients, where: S3Uri, failure: StageFailure) -> StageFailure:
    """Finds a more precise cause with a listing, because the answer to HEAD has no S3 error code.

    A listing distinguishes a missing object from a missing bucket, and wrong credentials from a missing
    permission.
    """
    if failure.reason not in {"ObjectMissing", "StorageDenied"}:
        return failure
    try:
        next(iter(clients.control.list_objects(where.bucket, prefix=where.key)), None)
    except Exception as error:  # noqa: BLE001 - the listing only improves the message
        token = token_of(clients.credentials())
        better = classify(error, doing=f"look at {where}", endpoint=clients.endpoint, token=token)
        explains = better.reason in {"BucketMissing", "StorageDenied", "SessionTokenExpired"}
        return better if explains else failure
    return failure
