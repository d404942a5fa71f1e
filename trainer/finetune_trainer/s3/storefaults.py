"""PURE: what an S3 client raised -> the failure that people read."""

import re
import ssl
from collections.abc import Container, Iterator
from dataclasses import dataclass

from minio.error import S3Error, ServerError

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure

_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CERTIFICATE = (
    (
        ("certificate has expired", "certificate expired", "Expired", "NotValidYet"),
        "it is expired or not yet valid",
        "Renew the server's certificate, or put its clock right.",
    ),
    (
        (
            "Hostname mismatch",
            "IP address mismatch",
            "doesn't match",
            "not valid for name",
            "NotValidForName",
        ),
        "it was issued for another name",
        "Use the name in the certificate as endpoint, or issue one that holds this name.",
    ),
    (
        ("unable to get local issuer", "self-signed", "self signed", "UnknownIssuer", "BadSignature"),
        "its authority is unknown",
        "Put the authority's certificate (PEM) into the ConfigMap of storage.caBundleRef.",
    ),
    (
        ("CaUsedAsEndEntity",),
        "the server shows an authority's certificate as its own",
        "Issue the server a certificate of its own (basicConstraints CA:FALSE) and trust the authority.",
    ),
    (
        ("InvalidCertificate", "CERTIFICATE_VERIFY_FAILED"),
        "it was refused",
        "Compare the server's certificate with the ConfigMap of storage.caBundleRef.",
    ),
)
_NO_TLS = (
    "WRONG_VERSION_NUMBER",
    "wrong version number",
    "InvalidContentType",
    "HTTP_REQUEST",
    "record layer failure",
)


@dataclass(frozen=True)
class _Case:
    """What an answer with one of these S3 codes or HTTP statuses means."""

    reason: str
    message: str
    hint: str
    codes: frozenset[str] = frozenset()
    statuses: Container[int] = ()
    failure: FailureClass = FailureClass.STORAGE


_ANSWERS = (
    _Case(
        "StorageDenied",
        "{endpoint} does not accept the credentials ({said}): could not {doing}.",
        "Check accessKey and secretKey in the Secret, and that they belong to this endpoint.",
        codes=frozenset(
            {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidTokenId", "ExpiredToken", "InvalidToken"}
        ),
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
        statuses=range(400, 500),
    ),
    _Case(
        "StorageError",
        "{endpoint} answered {said}: could not {doing}.",
        "It is tried again; see the store's own log.",
        statuses=range(1000),
    ),
)

RETRYABLE = frozenset({"StorageUnreachable", "StorageThrottled", "StorageError"})
"""Reasons that another try may mend; every other one is definite."""


def classify(error: Exception, *, doing: str, endpoint: str) -> StageFailure:
    """Turns a client's exception into a failure.

    Args:
        error: raised by obstore, minio or urllib3.
        doing: what was tried, with the URI: "read s3://data/train.jsonl".
        endpoint: of the store.
    """
    if isinstance(error, StageFailure):
        return error
    text = " ".join(_texts(error))
    status, code = _status_and_code(error, text)
    if status is None and isinstance(error, FileNotFoundError):
        status = 404
    if status is not None or code:
        return _of_answer(status or 0, code, doing, endpoint)
    if failure := _of_tls(error, text, endpoint):
        return failure
    if "127.0.0.1:1" in text or "proxy" in text.lower():
        return _redirected(doing, endpoint)
    return _unreachable(text, doing, endpoint)


def _texts(error: BaseException | None) -> Iterator[str]:
    seen = 0
    while error is not None and seen < 8:  # noqa: PLR2004 - chains are short; a loop in one must end
        yield str(error)
        reason = getattr(error, "reason", None)
        error = reason if isinstance(reason, BaseException) else error.__cause__
        seen += 1


def _status_and_code(error: Exception, text: str) -> tuple[int | None, str]:
    if isinstance(error, S3Error):
        return error.response.status, error.code or ""
    if isinstance(error, ServerError):
        return error.status_code, ""
    status, code = _STATUS.search(text), _CODE.search(text)
    return (int(status[1]) if status else None), (code[1] if code else "")


def _of_tls(error: Exception, text: str, endpoint: str) -> StageFailure | None:
    for marks, what, hint in _CERTIFICATE:
        if any(mark in text for mark in marks):
            return StageFailure(
                FailureClass.STORAGE,
                "StorageCertificate",
                f"The certificate of {endpoint} is not accepted: {what}.",
                hint,
            )
    if any(mark in text for mark in _NO_TLS):
        return StageFailure(
            FailureClass.STORAGE,
            "StorageCertificate",
            f"{endpoint} does not speak TLS at this port.",
            "Write http:// if the site allows it, or the port that speaks TLS.",
        )
    if isinstance(error, ssl.SSLError):
        return StageFailure(
            FailureClass.STORAGE, "StorageCertificate", f"TLS with {endpoint} failed: {text[:200]}.", ""
        )
    return None


def _of_answer(status: int, code: str, doing: str, endpoint: str) -> StageFailure:
    for case in _ANSWERS:
        if code in case.codes or status in case.statuses:
            said = code or f"HTTP {status}"
            message = case.message.format(endpoint=endpoint, doing=doing, said=said)
            return StageFailure(case.failure, case.reason, message, case.hint)
    raise AssertionError("the last case takes every status")


def _redirected(doing: str, endpoint: str) -> StageFailure:
    return StageFailure(
        FailureClass.USER_CONFIG,
        "StorageRedirect",
        f"{endpoint} redirects to another host, which is not followed: could not {doing}.",
        "Name the store itself as storage.endpoint.",
    )


def _unreachable(text: str, doing: str, endpoint: str) -> StageFailure:
    # obstore prints its own settings into every text.
    lowered = text.lower().replace("retry_timeout", "")
    if "refused" in lowered:
        why = "the connection was refused"
    elif any(
        mark in lowered for mark in ("dns", "name or service", "resolve", "nodename", "name resolution")
    ):
        why = "its name cannot be resolved"
    elif "timed out" in lowered or "timeout" in lowered:
        why = "it did not answer in time"
    elif "reset" in lowered or "closed" in lowered or "disconnected" in lowered:
        why = "the connection was dropped"
    else:
        why = text.partition("\n")[0][:200]
    return StageFailure(
        FailureClass.STORAGE,
        "StorageUnreachable",
        f"{endpoint} cannot be reached, {why}: could not {doing}.",
        "Check storage.endpoint, the network policies and the store; it is tried again.",
    )
