"""The permissions in the admin guide are sufficient and necessary."""

import re
from pathlib import Path

import pytest
from minio import Minio

from devcluster.objectstore import ObjectStore
from finetune_trainer.config import StoreAccess
from finetune_trainer.failures import StageFailure
from finetune_trainer.paths import Paths
from finetune_trainer.s3.store import open_store
from tests.trainer.storage import add_user, give_keys, on_both_stores

pytestmark = on_both_stores

GUIDE = Path(__file__).parents[3] / "docs" / "admin-guide.md"
OF_BUCKETS = {"s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"}


def documented(purpose: str) -> dict[str, list[str]]:
    """The permissions in a line of the table of the guide, as arguments of `add_user`."""
    [line] = [line for line in GUIDE.read_text().splitlines() if line.startswith(f"| {purpose}")]
    rights = set(re.findall(r"s3:\w+", line))
    return {"": sorted(rights & OF_BUCKETS), "*": sorted(rights - OF_BUCKETS)}


def test_the_rights_to_read_permit_reading_and_refuse_writing(
    s3: ObjectStore, access: StoreAccess, paths: Paths, bucket: str, tmp_path: Path
) -> None:
    open_store(access, "output", paths).write(f"s3://{bucket}/data/a", b"hello")
    give_keys(paths, "data", *add_user(s3, bucket, documented("reading"), tmp_path))
    reader = open_store(access, "data", paths)
    assert [entry.size for entry in reader.list(f"s3://{bucket}/data/")] == [5]
    assert reader.read(f"s3://{bucket}/data/a") == b"hello"
    assert reader.read_range(f"s3://{bucket}/data/a", 1, 2) == b"el"
    with pytest.raises(StageFailure, match="ObjectMissing"):
        reader.read(f"s3://{bucket}/data/b")
    for forbidden in (
        lambda: reader.write(f"s3://{bucket}/data/a", b""),
        lambda: reader.delete([f"s3://{bucket}/data/a"]),
    ):
        with pytest.raises(StageFailure, match="StorageDenied"):
            forbidden()


@pytest.mark.usefixtures("small_parts")
def test_the_rights_to_write_permit_all_operations_of_a_job_and_its_cleanup(
    s3: ObjectStore, s3_admin: Minio, access: StoreAccess, paths: Paths, bucket: str, tmp_path: Path
) -> None:
    give_keys(paths, "output", *add_user(s3, bucket, documented("writing"), tmp_path))
    writer = open_store(access, "output", paths)
    large = tmp_path / "large"
    large.write_bytes(b"x" * (6 * 1024 * 1024))
    sent = writer.upload(large, f"s3://{bucket}/runs/large")
    assert writer.download(f"s3://{bucket}/runs/large", tmp_path / "back") == sent
    s3_admin._create_multipart_upload(bucket, "runs/unfinished", {})
    assert writer.abort_uploads(f"s3://{bucket}/runs/") == 1
    assert writer.delete([entry.uri for entry in writer.list(f"s3://{bucket}/runs/")]) == 1
    assert writer.list(f"s3://{bucket}/") == []
