"""PURE: what an S3 client raised -> the failure that people read."""

import re
import ssl
from collections.abc import Iterator

from minio.error import S3Error, ServerError

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.answers import of_answer
from finetune_trainer.s3.sessiontoken import SessionToken

_ADDRESS = re.compile(r"https?://\S+")
_NOWHERE = re.compile(r"\b127\.0\.0\.1:1\b")
"""Where clients.py lets redirects to other hosts end."""
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


_UNREACHABLE = (
    (("refused",), "the connection was refused"),
    (("dns", "name or service", "resolve", "nodename", "name resolution"), "its name cannot be resolved"),
    (("timed out", "timeout"), "it did not answer in time"),
    (
        ("reset", "closed", "disconnected", "incompleteread", "body error", "error sending request"),
        "the connection was dropped",
    ),
)

RETRYABLE = frozenset(
    {"StorageUnreachable", "StorageThrottled", "StorageError", "ObjectCorrupt", "SessionTokenExpired"}
)
"""Reasons that another try may mend; every other one is definite."""


def classify(
    error: Exception, *, doing: str, endpoint: str, token: SessionToken | None = None
) -> StageFailure:
    """Turns a client's exception into a failure.

    Args:
        error: raised by obstore, minio or urllib3.
        doing: what was tried, with the URI: "read s3://data/train.jsonl".
        endpoint: of the store.
        token: the session token that the request was signed with, where there was one.
    """
    if isinstance(error, StageFailure):
        return error
    # What an object is named says nothing about what went wrong.
    text = _ADDRESS.sub("", " ".join(_texts(error)))
    status, code = _status_and_code(error, text)
    if status is None and isinstance(error, FileNotFoundError):
        status = 404
    if status is not None or code:
        return of_answer(status or 0, code, doing, endpoint, token)
    if failure := _of_tls(error, text, endpoint):
        return failure
    if _NOWHERE.search(text):
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
    said = text.partition("\n")[0][:200]
    why = next((why for marks, why in _UNREACHABLE if any(mark in lowered for mark in marks)), said)
    protocol = " If it speaks TLS, write https://." if endpoint.startswith("http://") else ""
    return StageFailure(
        FailureClass.STORAGE,
        "StorageUnreachable",
        f"{endpoint} cannot be reached, {why}: could not {doing}.",
        f"Check storage.endpoint, the network policies and the store; it is tried again.{protocol}",
    )
