"""IO: what a store says of one object, and why it says nothing."""

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
    """One object as the store lists it."""

    uri: str
    size: int
    """Bytes."""
    etag: str
    """In quotes, as ETags travel; empty where the store gives none, as for files that came past it."""
    modified: datetime


@dataclass(frozen=True)
class Transfer:
    """What went over the wire, digested on the way."""

    size: int
    """Bytes."""
    digest: Digest
    """SHA-256 of all bytes."""


def info(bucket: str, entry: Object) -> ObjectInfo:
    """What minio tells of an object; it strips the quotes of ETags."""
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
    """Asks for an object without its content.

    Args:
        clients: of the store.
        where: the object.
        part: number of a part that it was put in, from 1; the size is then that part's.

    Returns:
        The object and all headers of the answer by their names in lower case; None if it is not there.
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
    """The failure that an object which has to be there is not."""
    failure = StageFailure(
        FailureClass.USER_CONFIG,
        "ObjectMissing",
        f"{where} does not exist at {clients.endpoint}.",
        "Upload it, or mend the uri.",
    )
    return _explained(clients, where, failure)


def _explained(clients: Clients, where: S3Uri, failure: StageFailure) -> StageFailure:
    """The answer to HEAD has no body; a listing tells a missing bucket or a wrong key."""
    if failure.reason not in {"ObjectMissing", "StorageDenied"}:
        return failure
    try:
        next(iter(clients.control.list_objects(where.bucket, prefix=where.key)), None)
    except Exception as error:  # noqa: BLE001 - only to word the failure better
        token = token_of(clients.credentials())
        better = classify(error, doing=f"look at {where}", endpoint=clients.endpoint, token=token)
        explains = better.reason in {"BucketMissing", "StorageDenied", "SessionTokenExpired"}
        return better if explains else failure
    return failure
