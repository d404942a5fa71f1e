"""PURE: converts an exception of an S3 client into a failure."""

import re
import ssl
from collections.abc import Iterator
from urllib.parse import urlsplit

from minio.error import S3Error, ServerError

from finetune_trainer.contract import FailureClass
from finetune_trainer.failures import StageFailure
from finetune_trainer.s3.answers import of_answer
from finetune_trainer.s3.sessiontoken import SessionToken

_ADDRESS = re.compile(r"https?://\S+")
_NOWHERE = re.compile(r"\b127\.0\.0\.1:1\b")
"""The proxy address with which clients.py blocks redirects to other hosts."""
_STATUS = re.compile(r"non-2xx status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_CERTIFICATE = (
    (
        ("certificate has expired", "certificate expired", "Expired", "NotValidYet"),
        "the certificate has expired or is not yet valid",
        "Renew the certificate of the server, or correct the clock of the server.",
    ),
    (
        (
            "Hostname mismatch",
            "IP address mismatch",
            "doesn't match",
            "not valid for name",
            "NotValidForName",
        ),
        "the certificate is for another name",
        "Use the name in the certificate as endpoint, or issue a certificate with this name.",
    ),
    (
        ("unable to get local issuer", "self-signed", "self signed", "UnknownIssuer", "BadSignature"),
        "the certificate authority is unknown",
        "Put the certificate of the authority (PEM) into the ConfigMap of storage.caBundleRef.",
    ),
    (
        ("CaUsedAsEndEntity",),
        "the server uses the certificate of an authority",
        "Issue a server certificate (basicConstraints CA:FALSE), and put the authority into the CA bundle.",
    ),
    (
        ("InvalidCertificate", "CERTIFICATE_VERIFY_FAILED"),
        "the certificate is invalid",
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

_UNRESOLVED = "the name cannot be resolved"
_UNREACHABLE = (
    (("refused",), "the connection was refused"),
    (("dns", "name or service", "resolve", "nodename", "name resolution"), _UNRESOLVED),
    (("timed out", "timeout"), "the server did not answer in time"),
    (
        ("reset", "closed", "disconnected", "incompleteread", "body error", "error sending request"),
        "the connection was dropped",
    ),
)

RETRYABLE = frozenset(
    {"StorageUnreachable", "StorageThrottled", "StorageError", "ObjectCorrupt", "SessionTokenExpired"}
)
"""Reasons of failures that may pass; `persist` repeats the request only for these reasons."""


def classify(
    error: Exception, *, doing: str, endpoint: str, token: SessionToken | None = None
) -> StageFailure:
    """Converts an exception of an S3 client into a failure.

    Args:
        error: an exception of obstore, minio or urllib3; a StageFailure is returned unchanged.
        doing: the operation, with the URI: "read s3://data/train.jsonl".
        endpoint: endpoint of the store.
        token: session token of the request; None for permanent credentials.
    """
    if isinstance(error, StageFailure):
        return error
    # The name of an object must not affect the classification.
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
    while error is not None and seen < 8:  # noqa: PLR2004 - a limit for chains with a cycle
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
                f"TLS with {endpoint} failed: {what}.",
                hint,
            )
    if any(mark in text for mark in _NO_TLS):
        return StageFailure(
            FailureClass.STORAGE,
            "StorageCertificate",
            f"{endpoint} does not speak TLS at this port.",
            "Use the port of the server that speaks TLS, or http:// if the policy of the site permits it.",
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
        f"{endpoint} redirects to another host, which the trainer does not follow: could not {doing}.",
        "Set storage.endpoint to the address of the store itself.",
    )


def _unreachable(text: str, doing: str, endpoint: str) -> StageFailure:
    # obstore includes its settings in the text of every exception.
    lowered = text.lower().replace("retry_timeout", "")
    first_line = text.partition("\n")[0][:200]
    why = next((why for marks, why in _UNREACHABLE if any(mark in lowered for mark in marks)), first_line)
    address = urlsplit(endpoint)
    port = address.port or (80 if address.scheme == "http" else 443)
    protocol = " If the server speaks TLS, use https://." if address.scheme == "http" else ""
    if why == _UNRESOLVED:
        hint = (
            "Check the name in storage.endpoint and the DNS of the cluster. The NetworkPolicy of the run "
            "allows the ports in the operator's settings.dns.ports, and all ports of the DNS pods that "
            "settings.dns.namespace and settings.dns.podLabels select. The trainer tries again."
        )
    else:
        hint = (
            f"Check storage.endpoint and the store. The NetworkPolicy of the run allows port {port}, unless "
            "the operator's settings.stores.*.egress.ports lists other ports: a NetworkPolicy needs the port "
            "of the store's pods, which a Service may map to another port. The trainer tries again."
            f"{protocol}"
        )
    return StageFailure(
        FailureClass.STORAGE,
        "StorageUnreachable",
        f"{endpoint} cannot be reached ({why}): could not {doing}.",
        hint,
    )
