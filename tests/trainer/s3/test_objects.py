import pytest

from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.objects import look
from finetune_trainer.s3.store import Store
from finetune_trainer.s3.uris import S3Uri
from tests.trainer.storage import on_both_stores


@on_both_stores
def test_head_returns_the_metadata_of_an_object(store: Store, bucket: str) -> None:
    store.write(f"s3://{bucket}/a", b"hello")
    found = look(store._clients, S3Uri(bucket, "a"))
    assert found
    entry, headers = found
    assert (entry.uri, entry.size) == (f"s3://{bucket}/a", 5)
    assert headers["etag"] == entry.etag == '"5d41402abc4b2a76b9719d911017c592"'
    [listed] = store.list(f"s3://{bucket}/")
    assert (listed.etag, listed.size) == (entry.etag, 5)
    assert look(store._clients, S3Uri(bucket, "b")) is None


@on_both_stores
def test_a_missing_bucket_and_a_missing_object_have_different_reasons(store: Store, bucket: str) -> None:
    with pytest.raises(StageFailure, match="BucketMissing"):
        store.read("s3://no-such-bucket/key")
    with pytest.raises(StageFailure, match="BucketMissing"):
        store.write("s3://no-such-bucket/key", b"")
    with pytest.raises(StageFailure, match="BucketMissing"):
        store.list("s3://no-such-bucket/")
    with pytest.raises(StageFailure, match="ObjectMissing"):
        store.read(f"s3://{bucket}/key")
