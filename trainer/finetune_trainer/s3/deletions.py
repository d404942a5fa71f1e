"""IO: deletes objects, and all objects below a prefix with their older versions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from minio.deleteobjects import DeleteObject

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.clients import Clients
from finetune_trainer.s3.objects import look
from finetune_trainer.s3.retries import persist
from finetune_trainer.s3.uris import S3Uri

_Item = TypeVar("_Item")
_BATCH = 1000
"""Objects that one request deletes, the limit of S3."""
_GONE = frozenset({"NoSuchKey", "NoSuchVersion"})
_KEPT = frozenset({"AccessDenied", "ObjectLocked", "InvalidRequest"})
"""S3 error codes for a version that the credentials may not delete, or that an object lock protects."""
_NOT_LISTED = frozenset({"StorageDenied", "StorageRefused"})
"""Reasons of a failed listing of versions: no permission, or a store without versions."""


@dataclass(frozen=True)
class Cleared:
    """Numbers of deleted and of remaining objects below a prefix."""

    objects: int
    """Deleted objects."""
    versions: int = 0
    """Deleted older versions and delete markers."""
    versions_left: int = 0
    """Remaining older versions and delete markers; a lower bound if the versions cannot be listed."""


@dataclass(frozen=True)
class _Refusal:
    """An object or version that the store did not delete."""

    key: str
    code: str
    """S3 error code."""


def delete(clients: Clients, bucket: str, keys: Sequence[str]) -> None:
    """Deletes objects; an object that does not exist counts as deleted.

    Args:
        clients: clients of the store.
        bucket: name of the bucket.
        keys: keys of the objects.

    Raises:
        StageFailure: the store refuses to delete an object.
    """
    for refusal in _refused(clients, bucket, [DeleteObject(key) for key in keys]):
        raise _not_deleted(clients, bucket, refusal)


def clear(clients: Clients, below: S3Uri, on_progress: Callable[[float], None]) -> Cleared:
    """Deletes all objects below a prefix, then their versions as far as the credentials permit.

    Args:
        clients: clients of the store.
        below: the prefix.
        on_progress: receives the completed part, from 0 to 1.

    Raises:
        StageFailure: the store refuses to list or delete the objects.
    """
    keys = persist(lambda: _keys(clients, below), f"list {below}", clients)
    kept = bool(keys) and _keeps_versions(clients, S3Uri(below.bucket, keys[0]))
    for batch in _batches(keys, on_progress):
        delete(clients, below.bucket, batch)
    try:
        versions = persist(lambda: list(_versions(clients, below)), f"list versions of {below}", clients)
    except StageFailure as failure:
        if failure.reason not in _NOT_LISTED:
            raise
        return Cleared(len(keys), versions_left=len(keys) if kept else 0)
    left = sum(_left(clients, below.bucket, batch) for batch in _batches(versions, on_progress))
    return Cleared(len(keys), len(versions) - left, left)


def _batches(items: Sequence[_Item], on_progress: Callable[[float], None]) -> Iterator[Sequence[_Item]]:
    for start in range(0, len(items), _BATCH):
        yield items[start : start + _BATCH]
        on_progress(min(start + _BATCH, len(items)) / len(items))


def _keys(clients: Clients, below: S3Uri) -> list[str]:
    found = clients.control.list_objects(below.bucket, prefix=below.key, recursive=True)
    return [entry.object_name or "" for entry in found]


def _versions(clients: Clients, below: S3Uri) -> Iterator[DeleteObject]:
    for entry in clients.control.list_objects(
        below.bucket, prefix=below.key, recursive=True, include_version=True
    ):
        yield DeleteObject(entry.object_name or "", entry.version_id)


def _keeps_versions(clients: Clients, where: S3Uri) -> bool:
    """Whether a bucket keeps versions, according to the headers of one of its objects.

    Credentials that may not read the configuration of the bucket may still read these headers.
    """
    found = look(clients, where)
    return found is not None and "x-amz-version-id" in found[1]


def _left(clients: Clients, bucket: str, versions: Sequence[DeleteObject]) -> int:
    """Deletes versions, and returns the number of versions that remain."""
    try:
        refused = _refused(clients, bucket, versions)
    except StageFailure as failure:
        if failure.reason != "StorageDenied":
            raise
        return len(versions)
    for refusal in refused:
        if refusal.code not in _KEPT:
            raise _not_deleted(clients, bucket, refusal)
    return len(refused)


def _refused(clients: Clients, bucket: str, doomed: Sequence[DeleteObject]) -> list[_Refusal]:
    """Deletes objects or versions, and returns those that the store did not delete."""

    def act() -> list[_Refusal]:
        errors = clients.control.remove_objects(bucket, doomed)
        return [_Refusal(error.name or "", error.code) for error in errors if error.code not in _GONE]

    return persist(act, f"delete objects in s3://{bucket}", clients)


def _not_deleted(clients: Clients, bucket: str, refusal: _Refusal) -> StageFailure:
    return StageFailure(
        FailureClass.STORAGE,
        "StorageDenied" if refusal.code == "AccessDenied" else "StorageError",
        f"{clients.endpoint} refuses to delete s3://{bucket}/{refusal.key} ({refusal.code}).",
        "Grant the permission s3:DeleteObject to the credentials of the output store.",
    )
