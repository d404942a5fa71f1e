"""IO: the S3 operations ListMultipartUploads and AbortMultipartUpload.

The public APIs of minio and obstore have neither operation. This module sends both requests itself, with the
public signer of minio and the connections of the control client.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, unquote_plus, urlencode, urlsplit
from xml.etree.ElementTree import Element, ParseError, fromstring

from minio.credentials.credentials import Credentials as MinioCredentials
from minio.error import S3Error
from minio.signer import sign_v4_s3
from minio.xml import findall, findtext
from urllib3 import BaseHTTPResponse

from finetune_trainer.s3.clients import Clients

PAGE_UPLOADS = 1000
"""Uploads on one page of a listing, the limit of S3."""
_NOTHING = hashlib.sha256().hexdigest()
_FIRST_ERROR = 300


@dataclass(frozen=True)
class Upload:
    """An unfinished multipart upload."""

    key: str
    id: str


@dataclass(frozen=True)
class Page:
    """A part of the listing of unfinished uploads."""

    uploads: tuple[Upload, ...]
    next_key: str | None
    """The next page begins after this key; None on the last page."""


def list_uploads(clients: Clients, bucket: str, prefix: str, after: str) -> Page:
    """Lists unfinished uploads of the keys that start with a prefix.

    A page begins with the first upload of a key, because versitygw refuses its own upload-id-marker. If a key
    has more uploads than a page holds, the listing leaves out the rest. A listing after the abort has the
    rest.

    Args:
        clients: of the store.
        bucket: its name.
        prefix: of the keys.
        after: `next_key` of the page before; empty for the first page.

    Raises:
        S3Error: the store refuses the request, or does not answer in XML.
        urllib3.exceptions.HTTPError: the store cannot be reached.
    """
    query = {
        "uploads": "",
        "prefix": prefix,
        "max-uploads": str(PAGE_UPLOADS),
        "encoding-type": "url",
        **({"key-marker": after} if after else {}),
    }
    answer = _send(clients, "GET", bucket, "", query)
    try:
        listing = fromstring(answer.data.decode())  # noqa: S314 - minio parses the answers of the store so too
    except (ParseError, UnicodeDecodeError) as error:
        raise _error(answer, "MalformedXML") from error
    encoded = findtext(listing, "EncodingType") == "url"
    uploads = tuple(
        Upload(_key(upload, "Key", encoded=encoded), findtext(upload, "UploadId") or "")
        for upload in findall(listing, "Upload")
    )
    if (findtext(listing, "IsTruncated") or "").lower() != "true":
        return Page(uploads, None)
    return Page(uploads, _key(listing, "NextKeyMarker", encoded=encoded) or None)


def abort_upload(clients: Clients, bucket: str, upload: Upload) -> None:
    """Aborts an unfinished upload; the store deletes the parts of the upload.

    Raises:
        S3Error: the store refuses the request; NoSuchUpload where the upload has ended.
        urllib3.exceptions.HTTPError: the store cannot be reached.
    """
    _send(clients, "DELETE", bucket, upload.key, {"uploadId": upload.id})


def _send(clients: Clients, method: str, bucket: str, key: str, query: Mapping[str, str]) -> BaseHTTPResponse:
    """Sends a signed request without a body, path-style."""
    path = quote(f"/{bucket}/{key}" if key else f"/{bucket}", safe="/")
    # The signature covers the parameters in the order of their names.
    text = urlencode(sorted(query.items()), quote_via=quote, safe="")
    url = urlsplit(f"{clients.endpoint.rstrip('/')}{path}?{text}")
    keys, now = clients.credentials(), datetime.now(UTC)
    headers = {
        "Host": url.netloc,
        "x-amz-content-sha256": _NOTHING,
        "x-amz-date": now.strftime("%Y%m%dT%H%M%SZ"),
        **({"x-amz-security-token": keys.session_token} if keys.session_token else {}),
    }
    signed = sign_v4_s3(
        method=method,
        url=url,
        region=clients.region,
        headers=dict(headers),
        credentials=MinioCredentials(keys.access_key, keys.secret_key, keys.session_token),
        content_sha256=_NOTHING,
        date=now,
    )
    answer = clients.http.request(
        method,
        url.geturl(),
        headers={name: str(value) for name, value in signed.items()},
        redirect=False,
        retries=False,
    )
    if answer.status >= _FIRST_ERROR:
        raise _error(answer, _code(answer))
    return answer


def _code(answer: BaseHTTPResponse) -> str:
    """The error code of S3; empty where the answer has none."""
    try:
        return findtext(fromstring(answer.data.decode()), "Code") or ""  # noqa: S314 - see list_uploads
    except (ParseError, UnicodeDecodeError):
        return ""


def _error(answer: BaseHTTPResponse, code: str) -> S3Error:
    return S3Error(answer, code, None, None, answer.headers.get("x-amz-request-id"), None)


def _key(element: Element, name: str, *, encoded: bool) -> str:
    text = findtext(element, name) or ""
    return unquote_plus(text) if encoded else text
