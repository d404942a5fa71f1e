import pytest

from finetune_trainer.contract import FailureClass
from finetune_trainer.s3.answers import of_answer
from finetune_trainer.s3.storefaults import RETRYABLE


@pytest.mark.parametrize(
    ("status", "code", "reason", "again"),
    [
        (403, "InvalidAccessKeyId", "StorageDenied", False),
        (403, "SignatureDoesNotMatch", "StorageDenied", False),
        (403, "RequestTimeTooSkewed", "StorageDenied", False),
        (403, "AccessDenied", "StorageDenied", False),
        (403, "", "StorageDenied", False),
        (301, "PermanentRedirect", "StorageRegion", False),
        (307, "", "StorageRedirect", False),
        (404, "NoSuchBucket", "BucketMissing", False),
        (404, "NoSuchKey", "ObjectMissing", False),
        (404, "", "ObjectMissing", False),
        (404, "NoSuchUpload", "StorageError", True),
        (400, "InvalidPart", "StorageError", True),
        (400, "RequestTimeout", "StorageError", True),
        (400, "IncompleteBody", "StorageError", True),
        (408, "", "StorageError", True),
        (409, "OperationAborted", "StorageError", True),
        (400, "BadDigest", "ObjectCorrupt", True),
        (400, "XAmzContentSHA256Mismatch", "ObjectCorrupt", True),
        (412, "PreconditionFailed", "ObjectChanged", False),
        (507, "XMinioStorageFull", "StorageFull", False),
        (503, "SlowDown", "StorageThrottled", True),
        (429, "", "StorageThrottled", True),
        (500, "InternalError", "StorageError", True),
        (503, "", "StorageError", True),
        (400, "", "StorageRefused", False),
        (501, "NotImplemented", "StorageRefused", False),
    ],
)
def test_an_answer_has_a_reason_that_is_retryable_or_final(
    status: int, code: str, reason: str, *, again: bool
) -> None:
    failure = of_answer(status, code, "read s3://data/x", "https://store.example")
    assert (failure.reason, failure.reason in RETRYABLE) == (reason, again)
    assert "https://store.example" in failure.message
    assert "s3://data/x" in failure.message or code == "RequestTimeTooSkewed"
    assert failure.hint


def test_errors_of_the_job_have_class_user_config() -> None:
    for status, code in ((404, "NoSuchBucket"), (404, "NoSuchKey"), (301, "PermanentRedirect"), (307, "")):
        assert of_answer(status, code, "x", "y").failure is FailureClass.USER_CONFIG
    assert of_answer(404, "NoSuchUpload", "x", "y").failure is FailureClass.STORAGE
