"""Deletion in buckets with versions, with and without the permission to delete versions."""

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from minio import Minio
from minio.commonconfig import ENABLED
from minio.deleteobjects import DeleteObject
from minio.lifecycleconfig import LifecycleConfig
from minio.retention import GOVERNANCE, Retention
from minio.versioningconfig import VersioningConfig

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.contract import CleanupPayload, FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3 import deletions
from finetune_trainer.s3.deletions import Cleared
from finetune_trainer.s3.store import open_store
from finetune_trainer.stages import cleanup
from tests.trainer.s3.test_results import UID, Silent, config_of
from tests.trainer.s3.test_rights import GUIDE, documented
from tests.trainer.storage import add_user, give_keys, on_both_stores

RUN = f".finetune-runs/ns/{UID}/"


def entries(admin: Minio, bucket: str, prefix: str = "") -> list[DeleteObject]:
    """All versions and delete markers below a prefix."""
    found = admin.list_objects(bucket, prefix=prefix, recursive=True, include_version=True)
    return [DeleteObject(str(entry.object_name), entry.version_id) for entry in found]


@pytest.fixture
def versioned(s3_admin: Minio, bucket: str) -> Iterator[str]:
    """A bucket with a run of three objects, one of them overwritten and one deleted, beside a model."""
    s3_admin.set_bucket_versioning(bucket, VersioningConfig(ENABLED))
    for key in ("prepared/a", "prepared/a", "report", "gone"):
        put(s3_admin, bucket, f"{RUN}{key}")
    s3_admin.remove_object(bucket, f"{RUN}gone")
    for _ in range(2):
        put(s3_admin, bucket, "tuned/manifest.json")
    yield bucket
    assert list(s3_admin.remove_objects(bucket, entries(s3_admin, bucket), bypass_governance_mode=True)) == []


def put(admin: Minio, bucket: str, key: str) -> None:
    admin.put_object(bucket, key, io.BytesIO(b"secret"), 6)


def rights(*purposes: str) -> dict[str, list[str]]:
    """The permissions in several lines of the table of the guide."""
    listed = [documented(purpose) for purpose in purposes]
    return {on: sorted({right for each in listed for right in each[on]}) for on in ("", "*")}


def cleaned(bucket: str, access: StoreAccess, paths: Paths) -> tuple[CleanupPayload, str]:
    result = cleanup.run(config_of(bucket, access), paths, Silent())
    assert isinstance(result.payload, CleanupPayload)
    return result.payload, result.message


@pytest.mark.parametrize("at_once", [1, 1000])
def test_credentials_that_may_delete_versions_delete_all_versions_of_the_run_only(
    s3: ObjectStore,
    s3_admin: Minio,
    access: StoreAccess,
    paths: Paths,
    versioned: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    at_once: int,
) -> None:
    monkeypatch.setattr(deletions, "_BATCH", at_once)
    give_keys(paths, "output", *add_user(s3, versioned, rights("writing", "clearing up in"), tmp_path))
    payload, message = cleaned(versioned, access, paths)
    assert entries(s3_admin, versioned, RUN) == []
    assert len(entries(s3_admin, versioned, "tuned/")) == 2
    # Four versions and one delete marker existed; the deletion of two objects added two delete markers.
    assert payload == CleanupPayload(objects=2, uploads=0, versions=7)
    assert "7 older versions and delete markers" in message
    assert cleaned(versioned, access, paths)[0] == CleanupPayload(objects=0, uploads=0)


def test_without_the_permission_to_delete_versions_the_remaining_versions_are_counted(
    s3: ObjectStore, s3_admin: Minio, access: StoreAccess, paths: Paths, versioned: str, tmp_path: Path
) -> None:
    denied = ["s3:DeleteObjectVersion"]
    give_keys(paths, "output", *add_user(s3, versioned, rights("writing"), tmp_path, denied=denied))
    payload, message = cleaned(versioned, access, paths)
    assert payload == CleanupPayload(objects=2, uploads=0, versions_left=7)
    assert len(entries(s3_admin, versioned, RUN)) == 7
    for word in ("7 older versions", "s3:DeleteObjectVersion", "NoncurrentVersionExpiration"):
        assert word in message


def test_without_the_permission_to_list_versions_a_lower_bound_is_counted(
    s3_admin: Minio, access: StoreAccess, paths: Paths, versioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(*_: object) -> None:
        """Refuses to list versions, like some stores; MinIO needs only the permission to list objects."""
        raise StageFailure(FailureClass.STORAGE, "StorageDenied", "refuses to list versions")

    monkeypatch.setattr(deletions, "_versions", denied)
    payload, message = cleaned(versioned, access, paths)
    assert payload == CleanupPayload(objects=2, uploads=0, versions_left=2)
    assert "at least 2 older versions" in message
    assert list(s3_admin.list_objects(versioned, prefix=RUN, recursive=True)) == []


@on_both_stores
def test_a_bucket_without_versions_is_cleared_with_the_rights_to_write(
    s3: ObjectStore, s3_admin: Minio, access: StoreAccess, paths: Paths, bucket: str, tmp_path: Path
) -> None:
    put(s3_admin, bucket, f"{RUN}a")
    give_keys(paths, "output", *add_user(s3, bucket, rights("writing"), tmp_path))
    payload, message = cleaned(bucket, access, paths)
    assert payload == CleanupPayload(objects=1, uploads=0)
    assert "version" not in message


def test_locked_versions_count_as_remaining(s3_admin: Minio, access: StoreAccess, paths: Paths) -> None:
    bucket = "locked-for-a-day"
    s3_admin.make_bucket(bucket, object_lock=True)
    until = Retention(GOVERNANCE, datetime.now(UTC) + timedelta(days=1))
    s3_admin.put_object(bucket, "run/a", io.BytesIO(b"x"), 1, retention=until)
    cleared = open_store(access, "output", paths).clear(f"s3://{bucket}/run/")
    assert cleared == Cleared(objects=1, versions=1, versions_left=1)


def test_the_store_accepts_the_lifecycle_rules_of_the_guide(s3_admin: Minio, bucket: str) -> None:
    [text] = re.findall(r"```json\n(\{\n  \"Rules\".*?)```", GUIDE.read_text(), re.DOTALL)
    root = ET.Element("LifecycleConfiguration")
    for rule in json.loads(text)["Rules"]:
        fill(ET.SubElement(root, "Rule"), rule)
    s3_admin.set_bucket_lifecycle(bucket, LifecycleConfig.fromxml(root))
    kept = s3_admin.get_bucket_lifecycle(bucket)
    assert kept is not None
    first, second = kept.rules
    assert (first.expiration and first.expiration.days) == 60
    assert first.noncurrent_version_expiration
    assert first.noncurrent_version_expiration.noncurrent_days == 1
    assert second.expiration
    assert second.expiration.expired_object_delete_marker


def fill(element: ET.Element, document: dict[str, Any]) -> None:
    """A lifecycle rule as XML, in the form of the AWS command line."""
    for name, value in document.items():
        child = ET.SubElement(element, name)
        if isinstance(value, dict):
            fill(child, value)
        else:
            child.text = json.dumps(value) if isinstance(value, bool | int) else value
