"""PURE: converts the HTTP status and the S3 error code of an answer into a failure."""

from collections.abc import Container
from dataclasses import dataclass

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.sessiontoken import SessionToken


@dataclass(frozen=True)
class _Case:
    """The failure for answers with one of these S3 error codes or HTTP statuses."""

    reason: str
    message: str
    hint: str
    codes: frozenset[str] = frozenset()
    statuses: Container[int] = ()
    failure: FailureClass = FailureClass.STORAGE


_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch"})
_TOKENS = frozenset({"InvalidTokenId", "ExpiredToken", "InvalidToken"})
_VAGUE = frozenset({"", "AccessDenied"})
"""Codes of refusals without a cause; the answer to HEAD has no code."""
_FORBIDDEN = 403
_ANSWERS = (
    _Case(
        "StorageDenied",
        "{endpoint} does not accept the credentials ({answer}): could not {doing}.",
        "Check accessKey and secretKey in the Secret, and that they belong to this endpoint. Temporary keys"
        " need their session token too, under storage.secretRef.sessionTokenKey (sessionToken).",
        codes=_KEYS | _TOKENS,
    ),
    _Case(
        "StorageDenied",
        "The clocks of this node and of {endpoint} differ too much: could not {doing}.",
        "Synchronise both clocks (NTP).",
        codes=frozenset({"RequestTimeTooSkewed"}),
    ),
    _Case(
        "StorageRegion",
        "{endpoint} expects another region or address ({answer}): could not {doing}.",
        "Set storage.region and storage.endpoint to those of the bucket.",
        codes=frozenset({"AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect"}),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "BucketMissing",
        "The bucket does not exist at {endpoint}: could not {doing}.",
        "Create the bucket, or correct the URI or storage.endpoint.",
        codes=frozenset({"NoSuchBucket"}),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "ObjectCorrupt",
        "{endpoint} received corrupted data ({answer}): could not {doing}.",
        "Check the network between this node and the store. The trainer repeats the request.",
        codes=frozenset(
            {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
        ),
    ),
    _Case(
        "StorageError",
        "{endpoint} did not complete a request ({answer}): could not {doing}.",
        "Look at the log of the store. The trainer repeats the request.",
        codes=frozenset(
            {
                *("RequestTimeout", "IncompleteBody", "OperationAborted"),
                *("NoSuchUpload", "InvalidPart", "InvalidPartOrder", "MalformedXML"),
            }
        ),
        statuses={408},
    ),
    _Case(
        "StorageFull",
        "{endpoint} has no free space ({answer}): could not {doing}.",
        "Free space in the store or raise the quota.",
        codes=frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}),
        statuses={507},
    ),
    _Case(
        "StorageThrottled",
        "{endpoint} limits the rate of requests ({answer}): could not {doing}.",
        "The trainer repeats the request later.",
        codes=frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests"}),
        statuses={429},
    ),
    _Case(
        "StorageRedirect",
        "{endpoint} redirects ({answer}), and the trainer follows no redirect: could not {doing}.",
        "Set storage.endpoint to the address of the store itself.",
        statuses=range(300, 400),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "StorageDenied",
        "{endpoint} refuses to {doing} ({answer}).",
        "Grant this permission to the credentials, or correct the URI.",
        codes=frozenset({"AccessDenied"}),
        statuses={401, 403},
    ),
    _Case(
        "ObjectMissing",
        "The object does not exist at {endpoint}: could not {doing}.",
        "Upload the object, or correct the URI.",
        codes=frozenset({"NoSuchKey"}),
        statuses={404},
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "ObjectChanged",
        "The object changed at {endpoint}: could not {doing}.",
        "Do not change the inputs of a job while the job runs.",
        codes=frozenset({"PreconditionFailed"}),
        statuses={412},
    ),
    _Case(
        "StorageRefused",
        "{endpoint} refuses the request ({answer}): could not {doing}.",
        "Check that storage.endpoint is an S3 endpoint and has the right scheme (http or https).",
        codes=frozenset({"NotImplemented"}),
        statuses={*range(400, 500), 501},
    ),
    _Case(
        "StorageError",
        "{endpoint} answered {answer}: could not {doing}.",
        "Look at the log of the store. The trainer repeats the request.",
        statuses=range(1000),
    ),
)


def of_answer(
    status: int, code: str, doing: str, endpoint: str, token: SessionToken | None = None
) -> StageFailure:
    """Converts the answer of a store into a failure.

    Args:
        status: HTTP status; 0 if unknown.
        code: S3 error code; "" if the answer has none.
        doing: the operation, with the URI: "read s3://data/train.jsonl".
        endpoint: endpoint of the store.
        token: session token of the request; None for permanent credentials.
    """
    if token and (failure := _of_token(status, code, doing, endpoint, token)):
        return failure
    for case in _ANSWERS:
        if code in case.codes or status in case.statuses:
            answer = code or f"HTTP {status}"
            message = case.message.format(endpoint=endpoint, doing=doing, answer=answer)
            return StageFailure(case.failure, case.reason, message, case.hint)
    raise AssertionError("the last case matches every status")


def _of_token(status: int, code: str, doing: str, endpoint: str, token: SessionToken) -> StageFailure | None:
    """The failure of temporary credentials; None if the answer does not concern the credentials."""
    refused = code in _KEYS | _TOKENS
    expired = code == "ExpiredToken" or (
        token.expired and (refused or (status == _FORBIDDEN and code in _VAGUE))
    )
    if not refused and not expired:
        return None
    refusal = f"{endpoint} does not accept the credentials ({code or f'HTTP {status}'}): could not {doing}."
    when = f"{token.expires:%Y-%m-%d %H:%M:%S} UTC" if token.expires else "an unknown time"
    if expired:
        return StageFailure(
            FailureClass.STORAGE,
            "SessionTokenExpired",
            f"{refusal} The sessionToken expired at {when}.",
            "Put new values of accessKey, secretKey and sessionToken into the Secret, and renew them before"
            " they expire: running pods read the Secret again.",
        )
    return StageFailure(
        FailureClass.STORAGE,
        "StorageDenied",
        f"{refusal} The sessionToken is valid until {when}.",
        "Check that accessKey, secretKey and sessionToken in the Secret were issued together, by this store.",
    )
