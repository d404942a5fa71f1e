"""PURE: what a store means by the status and the code of an answer."""

from collections.abc import Container
from dataclasses import dataclass

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.sessiontoken import SessionToken


@dataclass(frozen=True)
class _Case:
    """What an answer with one of these S3 codes or HTTP statuses means."""

    reason: str
    message: str
    hint: str
    codes: frozenset[str] = frozenset()
    statuses: Container[int] = ()
    failure: FailureClass = FailureClass.STORAGE


_KEYS = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch"})
_TOKENS = frozenset({"InvalidTokenId", "ExpiredToken", "InvalidToken"})
_NO_WORD = frozenset({"", "AccessDenied"})
"""Codes of refusals that do not say what is wrong with the keys; the answer to HEAD has no code."""
_FORBIDDEN = 403
_ANSWERS = (
    _Case(
        "StorageDenied",
        "{endpoint} does not accept the credentials ({said}): could not {doing}.",
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
        "{endpoint} expects another region or address ({said}): could not {doing}.",
        "Set storage.region and storage.endpoint to those of the bucket.",
        codes=frozenset({"AuthorizationHeaderMalformed", "InvalidRegion", "PermanentRedirect"}),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "BucketMissing",
        "The bucket does not exist at {endpoint}: could not {doing}.",
        "Create the bucket, or mend the uri or storage.endpoint.",
        codes=frozenset({"NoSuchBucket"}),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "ObjectCorrupt",
        "{endpoint} received other bytes than were sent ({said}): could not {doing}.",
        "Check the network between this node and the store; it is tried again.",
        codes=frozenset(
            {"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"}
        ),
    ),
    _Case(
        "StorageError",
        "{endpoint} lost a request on its way ({said}): could not {doing}.",
        "It is tried again; see the store's own log.",
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
        "{endpoint} has no room left ({said}): could not {doing}.",
        "Free space there or raise the quota.",
        codes=frozenset({"XMinioStorageFull", "QuotaExceeded", "XMinioAdminBucketQuotaExceeded"}),
        statuses={507},
    ),
    _Case(
        "StorageThrottled",
        "{endpoint} is too busy ({said}): could not {doing}.",
        "It is tried again later.",
        codes=frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "TooManyRequests"}),
        statuses={429},
    ),
    _Case(
        "StorageRedirect",
        "{endpoint} redirects ({said}), which is not followed: could not {doing}.",
        "Name the store itself as storage.endpoint.",
        statuses=range(300, 400),
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "StorageDenied",
        "{endpoint} refuses to {doing} ({said}).",
        "Give these credentials that permission, or mend the uri.",
        codes=frozenset({"AccessDenied"}),
        statuses={401, 403},
    ),
    _Case(
        "ObjectMissing",
        "Nothing is there at {endpoint}: could not {doing}.",
        "Upload it, or mend the uri.",
        codes=frozenset({"NoSuchKey"}),
        statuses={404},
        failure=FailureClass.USER_CONFIG,
    ),
    _Case(
        "ObjectChanged",
        "The object changed at {endpoint}: could not {doing}.",
        "Leave inputs alone while a job runs.",
        codes=frozenset({"PreconditionFailed"}),
        statuses={412},
    ),
    _Case(
        "StorageRefused",
        "{endpoint} does not take the request ({said}): could not {doing}.",
        "Check that storage.endpoint is an S3 endpoint, and whether it is http or https.",
        codes=frozenset({"NotImplemented"}),
        statuses={*range(400, 500), 501},
    ),
    _Case(
        "StorageError",
        "{endpoint} answered {said}: could not {doing}.",
        "It is tried again; see the store's own log.",
        statuses=range(1000),
    ),
)


def of_answer(
    status: int, code: str, doing: str, endpoint: str, token: SessionToken | None = None
) -> StageFailure:
    """The failure that an answer is.

    Args:
        status: of HTTP; 0 where there is none.
        code: of S3; "" where there is none.
        doing: what was tried, with the URI.
        endpoint: of the store.
        token: the session token that the request was signed with, where there was one.
    """
    if token and (failure := _of_token(status, code, doing, endpoint, token)):
        return failure
    for case in _ANSWERS:
        if code in case.codes or status in case.statuses:
            said = code or f"HTTP {status}"
            message = case.message.format(endpoint=endpoint, doing=doing, said=said)
            return StageFailure(case.failure, case.reason, message, case.hint)
    raise AssertionError("the last case takes every status")


def _of_token(status: int, code: str, doing: str, endpoint: str, token: SessionToken) -> StageFailure | None:
    """What is wrong with temporary keys; None where that is not why the store refuses."""
    refused = code in _KEYS | _TOKENS
    expired = code == "ExpiredToken" or (
        token.expired and (refused or (status == _FORBIDDEN and code in _NO_WORD))
    )
    if not refused and not expired:
        return None
    said = f"{endpoint} does not accept the credentials ({code or f'HTTP {status}'}): could not {doing}."
    when = f"{token.expires:%Y-%m-%d %H:%M:%S} UTC" if token.expires else "a time that it does not tell"
    if expired:
        return StageFailure(
            FailureClass.STORAGE,
            "SessionTokenExpired",
            f"{said} Their sessionToken expired at {when}.",
            "Put new values of accessKey, secretKey and sessionToken into the Secret, and from now on before"
            " the old ones expire: running pods read them again.",
        )
    return StageFailure(
        FailureClass.STORAGE,
        "StorageDenied",
        f"{said} Their sessionToken is valid until {when}.",
        "Check that accessKey, secretKey and sessionToken in the Secret were issued together, by this store.",
    )
